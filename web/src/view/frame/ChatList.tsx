/** The list of chats by age. Only rows in sight are in the document. */

import { useCallback, useLayoutEffect, useMemo, useRef, useState } from "react";

import type { ChatSummary } from "../../model";
import { actions, useChats } from "../../state";
import { useWords } from "../../words";
import { IconButton } from "../parts/buttons";
import { useUi } from "../ui";

const ROW = 34; // pixels, as in frame.css
const HEADING = 38;
const BEYOND = 8; // rows above and below that are there already

type Item =
  | { kind: "heading"; key: string; words: string; top: number }
  | { kind: "chat"; key: string; chat: ChatSummary; top: number };

/** Group chats: pinned, today, earlier; each item with its place. */
function layOut(chats: readonly ChatSummary[], names: readonly [string, string, string]): Item[] {
  const midnight = new Date().setHours(0, 0, 0, 0);
  const groups: ChatSummary[][] = [[], [], []];
  for (const chat of chats) groups[chat.pinned ? 0 : chat.changed >= midnight ? 1 : 2]!.push(chat);
  const items: Item[] = [];
  let top = 0;
  groups.forEach((group, at) => {
    if (group.length === 0) return;
    items.push({ kind: "heading", key: `h${at}`, words: names[at]!, top });
    top += HEADING;
    for (const chat of group) {
      items.push({ kind: "chat", key: chat.id, chat, top });
      top += ROW;
    }
  });
  return items;
}

const NONE: ChatSummary[] = [];

export function ChatList() {
  const words = useWords();
  const chats = useChats() ?? NONE;
  const items = useMemo(
    () => layOut(chats, [words.pinned, words.today, words.earlier]),
    [chats, words],
  );
  const box = useRef<HTMLDivElement>(null);
  const [view, setView] = useState({ top: 0, height: 800 });
  const look = useCallback(() => {
    if (box.current) setView({ top: box.current.scrollTop, height: box.current.clientHeight });
  }, []);
  useLayoutEffect(() => {
    look();
    const resized = new ResizeObserver(look);
    if (box.current) resized.observe(box.current);
    return () => resized.disconnect();
  }, [look]);
  const last = items.at(-1);
  const height = last ? last.top + ROW : 0;
  const from = view.top - BEYOND * ROW;
  const to = view.top + view.height + BEYOND * ROW;
  return (
    <div className="list" ref={box} onScroll={look} tabIndex={-1}>
      {items.length === 0 && <p className="hintline">{words.noChats}</p>}
      <ul style={{ height }}>
        {items
          .filter((item) => item.top + HEADING >= from && item.top <= to)
          .map((item) => (
            <li key={item.key} style={{ top: item.top }}>
              {item.kind === "heading" ? <h2>{item.words}</h2> : <Row chat={item.chat} />}
            </li>
          ))}
      </ul>
    </div>
  );
}

function Row({ chat }: { chat: ChatSummary }) {
  const words = useWords();
  const ui = useUi();
  const isHere = ui.chat === chat.id && !ui.isEngine;
  const title = chat.title || words.untitled;
  if (ui.renaming?.chat === chat.id && ui.renaming.place === "list") {
    return <RenameField id={chat.id} title={chat.title} />;
  }
  return (
    <div className="row chatrow" aria-current={isHere ? "page" : undefined}>
      <a
        href={`#/c/${encodeURIComponent(chat.id)}`}
        aria-current={isHere ? "page" : undefined}
        onClick={(event) => {
          if (event.ctrlKey || event.metaKey || event.shiftKey) return;
          event.preventDefault();
          ui.openChat(chat.id);
        }}
      >
        <span dir="auto">{title}</span>
      </a>
      {chat.isWriting && (
        <i className="live" title={words.writingNow} role="img" aria-label={words.writingNow} />
      )}
      <IconButton
        icon="dots"
        label={`${words.more}: ${title}`}
        className="sm rowmore"
        aria-haspopup="menu"
        onClick={(event) =>
          ui.setMenu({
            kind: "row",
            id: chat.id,
            anchor: event.currentTarget.getBoundingClientRect(),
          })
        }
      />
    </div>
  );
}

/** A chat's title as a field: Enter keeps it, Escape does not. */
export function RenameField({ id, title }: { id: string; title: string }) {
  const words = useWords();
  const ui = useUi();
  const done = useRef(false);
  const finish = (text: string | null) => {
    if (done.current) return;
    done.current = true;
    if (text?.trim() && text.trim() !== title) actions.rename(id, text.trim());
    ui.setRenaming(null);
  };
  return (
    <input
      className="renamefield"
      aria-label={words.title}
      defaultValue={title}
      // biome-ignore lint/a11y/noAutofocus: the reader asked for this field
      autoFocus
      onFocus={(event) => event.target.select()}
      onBlur={(event) => finish(event.target.value)}
      onKeyDown={(event) => {
        if (event.nativeEvent.isComposing) return;
        if (event.key === "Enter") finish(event.currentTarget.value);
        if (event.key === "Escape") {
          event.stopPropagation();
          finish(null);
        }
      }}
    />
  );
}
