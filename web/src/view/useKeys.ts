/**
 * The page's keys. With Ctrl or ⌘ everywhere; single ones outside text fields, where the reader
 * has them on.
 */

import { type RefObject, useEffect, useRef } from "react";
import { copyText } from "../render/copy";
import { actions, type ChatView, useSettings } from "../state";
import type { Asking } from "./composer/useAsking";
import { useLens } from "./frame/Bar";
import { useUi } from "./ui";

export interface KeyTargets {
  asking: Asking;
  field: RefObject<HTMLTextAreaElement | null>;
  scroll: RefObject<HTMLElement | null>;
  view: ChatView | null;
}

export function useKeys(targets: KeyTargets): void {
  const act = useActions(targets);
  const latest = useRef(act);
  useEffect(() => {
    latest.current = act;
  });
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (event.isComposing || event.keyCode === 229 || event.defaultPrevented) return;
      if (latest.current(event)) event.preventDefault();
    };
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, []);
}

/** Return what a key does; it says whether it did anything. */
function useActions({
  asking,
  field,
  scroll,
  view,
}: KeyTargets): (event: KeyboardEvent) => boolean {
  const ui = useUi();
  const lens = useLens();
  const settings = useSettings();
  const answer = () => turnInView(scroll.current, ".answer") ?? null;
  const single: Record<string, () => void> = {
    p: lens.shade,
    x: () => lens.drawer("prompt"),
    e: lens.engine,
    s: () => lens.drawer("sampling"),
    "/": () => field.current?.focus(),
    j: () => goToTurn(scroll.current, 1),
    k: () => goToTurn(scroll.current, -1),
    "[": () => stepAt(scroll.current, -1),
    "]": () => stepAt(scroll.current, 1),
    r: () => {
      const id = answer()?.dataset.turn;
      if (id) actions.regenerate(id);
    },
    c: () => {
      const id = answer()?.dataset.turn;
      const turn = view?.path.find((place) => place.turn.id === id)?.turn;
      if (turn) void copyText(turn.text);
    },
    "?": () => ui.setOverlay("keys"),
  };
  return (event) => {
    if (ui.overlay || ui.menu) {
      // They have keys of their own; this one works wherever the focus is.
      if (event.key !== "Escape") return false;
      if (ui.menu) ui.setMenu(null);
      else ui.setOverlay(null);
      return true;
    }
    const isCommand = (event.ctrlKey || event.metaKey) && !event.altKey;
    const key = event.key.toLowerCase();
    if (isCommand && key === "k") {
      ui.setOverlay("palette");
      return true;
    }
    if (isCommand && event.shiftKey && key === "o") {
      ui.openChat(null);
      field.current?.focus();
      return true;
    }
    if (event.key === "Escape") return closeNearest(ui, asking);
    if (event.key === "F2" && view) {
      ui.setRenaming({ chat: view.chat.id, place: "bar" });
      return true;
    }
    const target = event.target as HTMLElement;
    const isTyping = target.closest("input, textarea, select, [contenteditable]") !== null;
    const act = single[key];
    if (!act || isTyping || !settings.singleKeys || isCommand || event.altKey) return false;
    act();
    return true;
  };
}

/** Close what is nearest, then stop the answer. */
function closeNearest(ui: ReturnType<typeof useUi>, asking: Asking): boolean {
  if (ui.isNavOpen) ui.setNavOpen(false);
  else if (ui.isEngine) ui.setEngine(false);
  else if (ui.editing) ui.setEditing(null);
  else if (asking.writing) actions.stop(asking.writing);
  else if (ui.drawer) ui.setDrawer(null);
  else if (ui.isShaded) ui.setShaded(false);
  else return false;
  return true;
}

/** The last turn whose top is in sight, or that fills what is seen. */
function turnInView(box: HTMLElement | null, kind = ".turn[data-turn]"): HTMLElement | undefined {
  if (!box) return undefined;
  const focused = document.activeElement?.closest<HTMLElement>(kind);
  if (focused && box.contains(focused)) return focused;
  const middle = box.getBoundingClientRect().top + box.clientHeight * 0.75;
  const turns = [...box.querySelectorAll<HTMLElement>(kind)];
  return turns.findLast((turn) => turn.getBoundingClientRect().top <= middle) ?? turns[0];
}

function goToTurn(box: HTMLElement | null, by: 1 | -1): void {
  if (!box) return;
  const turns = [...box.querySelectorAll<HTMLElement>(".turn[data-turn]")];
  const focused = document.activeElement?.closest<HTMLElement>(".turn[data-turn]");
  const top = box.getBoundingClientRect().top + 8;
  const at = focused
    ? turns.indexOf(focused)
    : turns.findLastIndex((turn) => turn.getBoundingClientRect().top <= top);
  const next = turns[Math.min(turns.length - 1, Math.max(0, at + by))];
  next?.focus({ preventScroll: true });
  next?.scrollIntoView({ block: "start" });
}

function stepAt(box: HTMLElement | null, by: 1 | -1): void {
  const turns = [...(box?.querySelectorAll<HTMLElement>(".turn[data-turn]") ?? [])];
  const here = turnInView(box);
  const id = here?.querySelector(".branch")
    ? here.dataset.turn
    : turns.findLast((turn) => turn.querySelector(".branch"))?.dataset.turn;
  if (id) actions.stepBranch(id, by);
}

/** In the engine's view: the keys that lead out of it, and those that are the same everywhere. */
export function useEngineKeys(): void {
  const nowhere = useRef(null);
  useKeys({ asking: NOT_ASKING, field: nowhere, scroll: nowhere, view: null });
}

const NOT_ASKING: Asking = {
  chat: null,
  text: "",
  setText: () => {},
  send: () => {},
  editLast: () => {},
  writing: null,
};
