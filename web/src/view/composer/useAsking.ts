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

export function useAsking(view: ChatView | null | undefined): Asking {
  const ui = useUi();
  const chat = view?.chat ?? null;
  const id = chat?.id ?? null;
  const [text, setOwnText] = useState(chat?.draft ?? "");
  const typed = useRef<{ chat: string; text: string } | null>(null);

  const keep = useCallback(() => {
    if (typed.current) actions.setDraft(typed.current.chat, typed.current.text);
    typed.current = null;
  }, []);

  // Another chat, or a draft that another tab typed while nothing was typed here.
  const shown = useRef(id);
  useEffect(() => {
    if (shown.current !== id) {
      keep();
      shown.current = id;
      setOwnText(chat?.draft ?? "");
    }
  }, [id, chat?.draft, keep]);

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
    if (id !== null) typed.current = { chat: id, text: next };
  };
  const send = (given?: string) => {
    const question = (given ?? text).trim();
    if (!question) return;
    typed.current = null;
    const to = id ?? actions.newChat();
    setOwnText("");
    shown.current = to;
    actions.send(to, question);
    if (id === null) ui.openChat(to);
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
