/** One chat: bar, legend, thread or start page, and the composer. */

import { useEffect, useRef } from "react";

import { type ChatView, useServer } from "../../state";
import { Composer } from "../composer/Composer";
import { useAsking } from "../composer/useAsking";
import { Legend } from "../lens/Legend";
import { later } from "../parts/later";
import { Empty } from "../start/Empty";
import { Loading } from "../start/Loading";
import { useUi } from "../ui";
import { useKeys } from "../useKeys";
import { Bar } from "./Bar";

// A new chat does without it; one that is opened by its address begins to load it at once.
const Thread = later(
  () => import("../thread/Thread"),
  () => <div className="scroll" />,
);
const Alternatives = later(() => import("../lens/Alternatives"));

export function ChatPane({ view }: { view: ChatView | null | undefined }) {
  const ui = useUi();
  const server = useServer();
  const field = useRef<HTMLTextAreaElement>(null);
  const scroll = useRef<HTMLDivElement>(null);
  const asking = useAsking(view);
  const isEmpty = ui.chat === null || view === null || view?.path.length === 0;
  useKeys({ asking, field, scroll, view: view ?? null });
  useFieldFocus(ui.chat, isEmpty, field);
  return (
    <>
      <Bar chat={view?.chat ?? null} />
      {ui.isShaded && <Legend />}
      {isEmpty ? (
        server.kind === "loading" ? (
          <Loading state={server} />
        ) : (
          <Empty asking={asking} />
        )
      ) : view ? (
        <Thread view={view} scroll={scroll} />
      ) : (
        <div className="scroll" />
      )}
      <Composer
        asking={asking}
        field={field}
        usedTokens={isEmpty ? 0 : (view?.usedTokens ?? null)}
        leftOut={view?.leftOut ?? 0}
        isEmpty={isEmpty}
      />
      {ui.isShaded && view && <Alternatives view={view} scroll={scroll} />}
    </>
  );
}

/** A new chat is for typing: its field has the focus, but where that would raise a keyboard. */
function useFieldFocus(
  chat: string | null,
  isEmpty: boolean,
  field: React.RefObject<HTMLTextAreaElement | null>,
): void {
  // biome-ignore lint/correctness/useExhaustiveDependencies: again for each chat
  useEffect(() => {
    if (isEmpty && !matchMedia("(pointer: coarse)").matches) {
      field.current?.focus({ preventScroll: true });
    }
  }, [chat, isEmpty, field]);
}
