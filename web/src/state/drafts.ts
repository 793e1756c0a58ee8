/** What is typed and not sent: stored with its chat a moment after the last key. */

import type { ChatId } from "../model";
import { change, chatUpdate, getChat } from "./library";

const DRAFT_MS = 300;
const drafts = new Map<ChatId, { text: string; timer: ReturnType<typeof setTimeout> }>();

export function setDraft(id: ChatId, text: string): void {
  clearTimeout(drafts.get(id)?.timer);
  const timer = setTimeout(() => storeDraft(id), DRAFT_MS);
  drafts.set(id, { text, timer });
}

function storeDraft(id: ChatId): void {
  const draft = drafts.get(id);
  drafts.delete(id);
  if (draft && getChat(id)?.draft !== draft.text) {
    void change({ chats: [chatUpdate(id, (chat) => ({ ...chat, draft: draft.text }))] });
  }
}

export function dropDraft(id: ChatId): void {
  clearTimeout(drafts.get(id)?.timer);
  drafts.delete(id);
}

/** Store drafts that were typed a moment ago: the page is being left. */
export function flushDrafts(): void {
  for (const id of [...drafts.keys()]) {
    clearTimeout(drafts.get(id)?.timer);
    storeDraft(id);
  }
}
