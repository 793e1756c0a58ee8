/** Makes chats and turns with all their fields. */

import { newId } from "./ids";
import { BALANCED } from "./presets";
import type { Chat, ChatSettings, Role, Turn, TurnId } from "./types";

export const NO_SETTINGS: ChatSettings = {
  system: "",
  sampling: BALANCED,
  preset: "balanced",
  schema: null,
  tools: [],
  toolChoice: "auto",
};

export function newChat(settings: ChatSettings = NO_SETTINGS, now = Date.now()): Chat {
  return {
    id: newId(),
    title: "",
    isTitled: false,
    pinned: false,
    created: now,
    changed: now,
    settings,
    draft: "",
    active: {},
    deleted: null,
    version: 0,
  };
}

let last = 0;

/** Now, later than any time given before, so that siblings keep the order they were made in. */
function tick(): number {
  last = Math.max(Date.now(), last + 1);
  return last;
}

export function newTurn(
  chat: string,
  parent: TurnId | null,
  role: Role,
  fields: Partial<Turn> = {},
): Turn {
  return {
    id: newId(),
    chat,
    parent,
    role,
    created: tick(),
    text: "",
    reasoning: "",
    toolCalls: [],
    toolCallId: null,
    status: "done",
    finishReason: null,
    failure: null,
    stats: null,
    seed: null,
    sampling: null,
    asked: null,
    model: null,
    hasTokens: false,
    strip: [],
    prefixTokens: 0,
    prefixText: "",
    leftOut: 0,
    streamId: null,
    streamEvents: 0,
    replay: null,
    isEdited: false,
    deleted: null,
    version: 0,
    ...fields,
  };
}

const TITLE_LENGTH = 60;

/** A chat's title from its first question: the first line, cut at a word. */
export function titleOf(text: string): string {
  const line = text.trim().split("\n", 1)[0]!.replace(/\s+/g, " ").trim();
  const letters = Array.from(line);
  if (letters.length <= TITLE_LENGTH) return line;
  const short = letters.slice(0, TITLE_LENGTH).join("");
  const space = short.lastIndexOf(" ");
  return `${space > TITLE_LENGTH / 2 ? short.slice(0, space) : short}…`;
}
