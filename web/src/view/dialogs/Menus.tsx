/** The menus behind ⋯: of the chat that is read, of a row of the list, of an answer. */

import { useCallback, useEffect, useLayoutEffect, useRef } from "react";

import { Icon, type IconName } from "../../icons";
import { actions, type ChatView, useChats } from "../../state";
import { useWords } from "../../words";
import { useLens } from "../frame/Bar";
import { useFocusInside } from "../parts/focus";
import { type OpenMenu, useUi } from "../ui";
import { useChatActions } from "./chatActions";
import "../../styles/popover.css";

interface Item {
  icon: IconName;
  text: string;
  keys?: string;
  kind?: "onlyphone" | "no";
  act: () => void;
}

type Line = Item | "line" | "phoneline";

export default function Menus({ view }: { view: ChatView | null }) {
  const words = useWords();
  const ui = useUi();
  const menu = ui.menu;
  const chatLines = useChatLines(view);
  const rowLines = useRowLines(menu?.kind === "row" ? menu.id : "");
  const turnLines = useTurnLines(view, menu?.kind === "turn" ? menu.id : "");
  if (!menu) return null;
  const lines = { chat: chatLines, row: rowLines, turn: turnLines }[menu.kind];
  return (
    <section className="contents" aria-label={words.more}>
      <Menu key={`${menu.kind}:${menu.id}`} menu={menu} lines={lines} />
    </section>
  );
}

function Menu({ menu, lines }: { menu: OpenMenu; lines: Line[] }) {
  const words = useWords();
  const ui = useUi();
  const ref = useRef<HTMLDivElement>(null);
  const { setMenu } = ui;
  const close = useCallback(() => setMenu(null), [setMenu]);
  useFocusInside(ref, close);
  useLayoutEffect(() => {
    const pop = ref.current;
    const frame = document.getElementById("app")?.getBoundingClientRect();
    if (!pop || !frame) return;
    const left = Math.min(menu.anchor.left - frame.left, frame.width - pop.offsetWidth - 12);
    const below = menu.anchor.bottom - frame.top + 4;
    const isHigh = below + pop.offsetHeight > frame.height - 8;
    const above = menu.anchor.top - frame.top - 4 - pop.offsetHeight;
    pop.style.left = `${Math.max(8, left)}px`;
    pop.style.top = `${isHigh ? Math.max(8, above) : below}px`;
  }, [menu]);
  useEffect(() => {
    const onPress = (event: PointerEvent) => {
      if (!ref.current?.contains(event.target as Node)) close();
    };
    document.addEventListener("pointerdown", onPress);
    return () => document.removeEventListener("pointerdown", onPress);
  }, [close]);
  return (
    <div
      ref={ref}
      className="pop menu"
      role="menu"
      aria-label={words.more}
      tabIndex={-1}
      onKeyDown={(event) => {
        const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
        if (!by) return;
        event.preventDefault();
        const items = [...(ref.current?.querySelectorAll<HTMLElement>(".opt") ?? [])].filter(
          (item) => item.offsetParent !== null,
        );
        const now = items.indexOf(document.activeElement as HTMLElement);
        items[(now + by + items.length) % items.length]?.focus();
      }}
    >
      {lines.map((line, at) =>
        typeof line === "string" ? (
          <hr key={at} className={line === "phoneline" ? "onlyphone" : undefined} />
        ) : (
          <button
            key={at}
            type="button"
            role="menuitem"
            className={`opt ${line.kind ?? ""}`.trim()}
            onClick={() => {
              close();
              line.act();
            }}
          >
            <Icon name={line.icon} />
            <span>{line.text}</span>
            {line.keys ? <kbd>{line.keys}</kbd> : <span />}
          </button>
        ),
      )}
    </div>
  );
}

function useChatLines(view: ChatView | null): Line[] {
  const words = useWords();
  const lens = useLens();
  const ui = useUi();
  const chat = useChatActions();
  const lenses: Line[] = [
    { icon: "prompt", text: words.prompt, kind: "onlyphone", act: () => lens.drawer("prompt") },
    { icon: "engine", text: words.engine, kind: "onlyphone", act: lens.engine },
    {
      icon: "sliders",
      text: words.sampling,
      kind: "onlyphone",
      act: () => lens.drawer("sampling"),
    },
    { icon: "json", text: words.schema, kind: "onlyphone", act: () => lens.drawer("schema") },
    { icon: "tool", text: words.tools, kind: "onlyphone", act: () => lens.drawer("tools") },
  ];
  const settings: Line = {
    icon: "gear",
    text: words.settings,
    act: () => ui.setOverlay("settings"),
  };
  if (!view) return [...lenses, "phoneline", settings];
  const { id, title, pinned } = view.chat;
  const last = view.path.findLast(({ turn }) => turn.role === "assistant")?.turn;
  const ofAnswer: Line[] = last
    ? [
        { icon: "fork", text: words.fork, act: () => chat.fork(last.id) },
        {
          icon: "text",
          text: ui.raw.has(last.id) ? words.rendered : words.rawText,
          act: () => ui.toggleRaw(last.id),
        },
        {
          icon: "bars",
          text: words.inspectTokens,
          act: () => ui.setInspected(ui.inspected === last.id ? null : last.id),
        },
      ]
    : [];
  return [
    ...lenses,
    "phoneline",
    { icon: "edit", text: words.rename, keys: "F2", act: () => chat.rename(id) },
    {
      icon: "pin",
      text: pinned ? words.unpin : words.pin,
      act: () => actions.setPinned(id, !pinned),
    },
    ...ofAnswer,
    { icon: "file", text: words.export, act: () => chat.save(id, title) },
    "line",
    { icon: "x", text: words.delete, kind: "no", act: () => chat.remove(id) },
  ];
}

function useRowLines(id: string): Line[] {
  const words = useWords();
  const chat = useChatActions();
  const summary = useChats()?.find((each) => each.id === id);
  if (!summary) return [];
  return [
    { icon: "edit", text: words.rename, act: () => chat.rename(id, "list") },
    {
      icon: "pin",
      text: summary.pinned ? words.unpin : words.pin,
      act: () => actions.setPinned(id, !summary.pinned),
    },
    { icon: "file", text: words.export, act: () => chat.save(id, summary.title) },
    "line",
    { icon: "x", text: words.delete, kind: "no", act: () => chat.remove(id) },
  ];
}

function useTurnLines(view: ChatView | null, id: string): Line[] {
  const words = useWords();
  const ui = useUi();
  const chat = useChatActions();
  const turn = view?.path.find((place) => place.turn.id === id)?.turn;
  if (!turn) return [];
  const replay: Line[] =
    turn.seed !== null && !turn.isEdited
      ? [{ icon: "redo", text: words.replay, act: () => actions.replay(id) }]
      : [];
  return [
    { icon: "fork", text: words.fork, act: () => chat.fork(id) },
    {
      icon: "text",
      text: ui.raw.has(id) ? words.rendered : words.rawText,
      act: () => ui.toggleRaw(id),
    },
    {
      icon: "bars",
      text: words.inspectTokens,
      act: () => ui.setInspected(ui.inspected === id ? null : id),
    },
    ...replay,
    "line",
    { icon: "x", text: words.delete, kind: "no", act: () => chat.removeTurn(id) },
  ];
}
