/** The thread of a chat: its questions and answers, and what follows their growth. */

import { memo, type RefObject, useEffect, useLayoutEffect, useMemo, useRef } from "react";

import { Icon } from "../../icons";
import type { Place, Turn } from "../../model";
import type { ChatView } from "../../state";
import { useWords } from "../../words";
import { useUi } from "../ui";
import { useFollow } from "../useFollow";
import { Answer } from "./Answer";
import { Question } from "./Question";
import { Status } from "./Status";

export default function Thread({
  view,
  scroll,
}: {
  view: ChatView;
  scroll: RefObject<HTMLDivElement | null>;
}) {
  const words = useWords();
  const content = useRef<HTMLDivElement>(null);
  const { isAway, toEnd } = useFollow(scroll, content);
  // biome-ignore lint/correctness/useExhaustiveDependencies: again for each chat
  useLayoutEffect(toEnd, [view.chat.id, toEnd]);
  useEndAfterAsking(view.path, toEnd);
  useLegendShift(scroll);
  return (
    <>
      <div
        className="scroll"
        ref={scroll}
        tabIndex={0}
        role="log"
        aria-live="off"
        aria-label={words.chats}
      >
        <div ref={content}>
          <Turns view={view} />
        </div>
      </div>
      <Status path={view.path} />
      <div className="jumpline">
        <button type="button" className="btn jump" hidden={!isAway} onClick={toEnd}>
          <Icon name="down" />
          {words.latest}
        </button>
      </div>
    </>
  );
}

const Turns = memo(function Turns({ view }: { view: ChatView }) {
  const words = useWords();
  const { path, leftOut } = view;
  const results = useResults(path);
  const last = path.findLast((place) => place.turn.role === "assistant")?.turn.id;
  const shown = path.filter(({ turn }) => turn.role === "user" || turn.role === "assistant");
  return shown.map((place) => (
    <div key={place.turn.id} className="turnbox">
      {leftOut > 0 && place === path[leftOut] && (
        <div className="turn" id="prompt-begins">
          <div className="divider">{words.notInPrompt(leftOut)}</div>
        </div>
      )}
      {place.turn.role === "user" && <Question place={place} />}
      {place.turn.role === "assistant" && (
        <Answer
          place={place}
          isLast={place.turn.id === last}
          schema={view.chat.settings.schema}
          results={results}
        />
      )}
    </div>
  ));
});

const NO_RESULTS: ReadonlyMap<string, Turn> = new Map();

/** What tools gave, by the id of the call. */
function useResults(path: readonly Place[]): ReadonlyMap<string, Turn> {
  return useMemo(() => {
    const tools = path.filter(({ turn }) => turn.role === "tool");
    if (tools.length === 0) return NO_RESULTS;
    return new Map(tools.map(({ turn }) => [turn.toolCallId ?? "", turn]));
  }, [path]);
}

/** Go to the end when a turn is added that was asked for here. */
function useEndAfterAsking(path: readonly Place[], toEnd: () => void): void {
  const length = useRef(path.length);
  useEffect(() => {
    if (path.length > length.current && path.at(-1)?.turn.status === "writing") toEnd();
    length.current = path.length;
  }, [path, toEnd]);
}

/** The legend's row takes its height from the top; what is read stays where it is. */
function useLegendShift(scroll: RefObject<HTMLElement | null>): void {
  const { isShaded } = useUi();
  const before = useRef(isShaded);
  useLayoutEffect(() => {
    if (before.current === isShaded) return;
    before.current = isShaded;
    const legend = document.querySelector<HTMLElement>(".lensline");
    const height = legend?.offsetHeight || 34;
    if (scroll.current) scroll.current.scrollTop += isShaded ? height : -height;
  }, [isShaded, scroll]);
}
