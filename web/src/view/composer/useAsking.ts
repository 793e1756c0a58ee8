/** What is typed, kept per chat; and sending it. A new chat is made by its first letter. */

import { useCallback, useEffect, useRef, useState } from "react";

import type { Chat, TurnId } from "../../model";
import { actions, type ChatView } from "../../state";
import { useUi } from "../ui";

export interface Asking {
  chat: Chat | null;
  text: string;
  setText: (text: string) => void;
  send: (text?: string) => void;
  /** Edit the last question in its place. */
  editLast: () => void;
  /** The answer that is written in this chat. */
  writing: TurnId | null;
}

const KEEP_AFTER = 300; // milliseconds without a key

/** The draft of a chat that is not made yet: of this browser, since it has no chat to lie in. */
const newDraft = {
  name: "cullama-new-draft",
  get(): string {
    try {
      return localStorage.getItem(this.name) ?? "";
    } catch {
      return "";
    }
  },
  set(text: string): void {
    try {
      if (text) localStorage.setItem(this.name, text);
      else localStorage.removeItem(this.name);
    } catch {
      // Forbidden or full: it lasts as long as the page.
    }
  },
};

export function useAsking(view: ChatView | null | undefined): Asking {
  const ui = useUi();
  const chat = view?.chat ?? null;
  const id = view === null ? null : ui.chat;
  const isRead = id === null || chat !== null;
  const [text, setOwnText] = useState(() => (id === null ? newDraft.get() : (chat?.draft ?? "")));
  const typed = useRef<{ chat: string | null; text: string } | null>(null);

  const keep = useCallback(() => {
    const last = typed.current;
    typed.current = null;
    if (!last) return;
    if (last.chat === null) newDraft.set(last.text);
    else actions.setDraft(last.chat, last.text);
  }, []);

  const shown = useRef<string | null | undefined>(isRead ? id : undefined);
  const isNew = chat !== null && view?.path.length === 0 && chat.draft === "";
  useEffect(() => {
    if (!isRead || shown.current === id) return;
    const isMade = shown.current === null && isNew; // by a setting, while its question is typed
    shown.current = id;
    if (typed.current && typed.current.chat === id) return; // typed before the chat was read
    if (isMade && text) {
      typed.current = { chat: id, text };
      newDraft.set("");
      return;
    }
    keep();
    setOwnText(id === null ? newDraft.get() : (chat?.draft ?? ""));
  }, [id, isRead, isNew, text, chat?.draft, keep]);

  useEffect(() => {
    const timer = setTimeout(keep, KEEP_AFTER);
    return () => clearTimeout(timer);
  });
  useEffect(() => {
    addEventListener("pagehide", keep);
    return () => {
      removeEventListener("pagehide", keep);
      keep();
    };
  }, [keep]);

  const setText = (next: string) => {
    setOwnText(next);
    typed.current = { chat: id, text: next };
  };
  const send = (given?: string) => {
    const question = (given ?? text).trim();
    if (!question) return;
    typed.current = null;
    const to = id ?? actions.newChat();
    setOwnText("");
    shown.current = to;
    actions.send(to, question);
    if (id === null) {
      newDraft.set("");
      ui.openChat(to);
    }
  };
  const place = view?.path.findLast(({ turn }) => turn.role === "user");
  return {
    chat,
    text,
    setText,
    send,
    editLast: () => place && ui.setEditing(place.turn.id),
    writing: view?.path.findLast(({ turn }) => turn.status === "writing")?.turn.id ?? null,
  };
}
