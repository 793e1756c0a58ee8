/** Search in titles and texts of chats, and all commands with their keys, in one list. */

import { type ReactNode, useEffect, useState } from "react";

import { Icon, type IconName } from "../../icons";
import type { SearchHit } from "../../model";
import { actions, type ChatView, useChats } from "../../state";
import { useWords } from "../../words";
import { Dialog } from "../parts/Dialog";
import { isComposing } from "../parts/typing";
import { useUi } from "../ui";
import { useCommands } from "./commands";

interface Entry {
  key: string;
  icon: IconName;
  title: ReactNode;
  line: ReactNode;
  keys: string[];
  act: () => void;
}

const WAIT = 80; // milliseconds without a key
const RECENT = 5;
const MOST = 30;

export function Palette({ view, close }: { view: ChatView | null; close: () => void }) {
  const words = useWords();
  const [query, setQuery] = useState("");
  const [cursor, setCursor] = useState(0);
  const chats = useChatEntries(query, close);
  const commands = useCommandEntries(query, view, close);
  const all = [...chats, ...commands];
  const at = Math.min(cursor, Math.max(0, all.length - 1));
  useEffect(() => {
    document.getElementById(`found-${at}`)?.scrollIntoView({ block: "nearest" });
  }, [at]);
  return (
    <Dialog label={words.search} className="pal" close={close}>
      <div className="find">
        <Icon name="search" />
        <input
          type="search"
          role="combobox"
          aria-expanded="true"
          aria-controls="found"
          aria-activedescendant={all.length > 0 ? `found-${at}` : undefined}
          aria-label={words.find}
          placeholder={words.find}
          value={query}
          data-autofocus
          onChange={(event) => {
            setQuery(event.target.value);
            setCursor(0);
          }}
          onKeyDown={(event) => {
            if (isComposing(event)) return;
            const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
            if (by && all.length > 0) {
              event.preventDefault();
              setCursor((at + by + all.length) % all.length);
            } else if (event.key === "Enter") {
              event.preventDefault();
              all[at]?.act();
            }
          }}
        />
        <kbd>Esc</kbd>
      </div>
      <div className="res" id="found" role="listbox" aria-label={words.search} tabIndex={0}>
        <Group title={words.inChats} entries={chats} from={0} at={at} />
        <Group title={words.commands} entries={commands} from={chats.length} at={at} />
      </div>
      {all.length === 0 && <p className="hintline">{words.nothingFound(query)}</p>}
      <footer>
        <span>
          <kbd>↑</kbd> <kbd>↓</kbd> {words.move}
        </span>
        <span>
          <kbd>Enter</kbd> {words.open}
        </span>
        <span>
          <kbd>Esc</kbd> {words.closeKey}
        </span>
      </footer>
    </Dialog>
  );
}

function Group({
  title,
  entries,
  from,
  at,
}: {
  title: string;
  entries: readonly Entry[];
  from: number;
  at: number;
}) {
  if (entries.length === 0) return null;
  return (
    <div role="group" aria-label={title}>
      <h3 role="presentation">{title}</h3>
      {entries.map((entry, k) => (
        <button
          key={entry.key}
          type="button"
          id={`found-${from + k}`}
          role="option"
          aria-selected={from + k === at}
          tabIndex={-1}
          className={from + k === at ? "opt cur" : "opt"}
          onClick={entry.act}
        >
          <Icon name={entry.icon} />
          <span>{entry.title}</span>
          <span>
            {entry.keys.map((key) => (
              <kbd key={key}>{key}</kbd>
            ))}
          </span>
          {entry.line && <small>{entry.line}</small>}
        </button>
      ))}
    </div>
  );
}

function useChatEntries(query: string, close: () => void): Entry[] {
  const ui = useUi();
  const words = useWords();
  const chats = useChats();
  const [hits, setHits] = useState<SearchHit[]>([]);
  const wanted = query.trim();
  useEffect(() => {
    if (!wanted) return setHits([]);
    let isStale = false;
    const timer = setTimeout(async () => {
      const found = await actions.search(wanted);
      if (!isStale) setHits(found.slice(0, MOST));
    }, WAIT);
    return () => {
      isStale = true;
      clearTimeout(timer);
    };
  }, [wanted]);
  const open = (chat: string, turn: string | null) => {
    if (turn) actions.showTurn(turn);
    ui.openChat(chat);
    close();
  };
  if (!wanted) {
    return (chats ?? []).slice(0, RECENT).map((chat) => ({
      key: chat.id,
      icon: chat.pinned ? "pin" : "chat",
      title: chat.title || words.untitled,
      line: null,
      keys: [],
      act: () => open(chat.id, null),
    }));
  }
  return hits.map((hit, at) => ({
    key: `${hit.chat}:${hit.turn ?? ""}:${at}`,
    icon: "chat",
    title: hit.line === null ? marked(hit.title, hit) : hit.title || words.untitled,
    line: hit.line === null ? null : marked(hit.line, hit),
    keys: [],
    act: () => open(hit.chat, hit.turn),
  }));
}

function marked(text: string, { start, end }: SearchHit): ReactNode {
  return (
    <>
      {text.slice(0, start)}
      <mark>{text.slice(start, end)}</mark>
      {text.slice(end)}
    </>
  );
}

function useCommandEntries(query: string, view: ChatView | null, close: () => void): Entry[] {
  const wanted = query.trim().toLowerCase();
  return useCommands(view)
    .filter((command) => command.title.toLowerCase().includes(wanted))
    .map((command) => ({
      key: command.title,
      icon: command.icon,
      title: command.title,
      line: null,
      keys: command.keys,
      act: () => {
        close();
        command.act();
      },
    }));
}
