/** Searches titles and texts, in portions, so that typing is never held up. */

import type { Chat, SearchHit, Turn } from "../model/types";
import type { Repository } from "./repository";

const MAX_HITS = 50;
const LINE_BEFORE = 30;
const LINE_LENGTH = 120;

let newest = 0;

/**
 * One hit a chat: its title, or else its newest turn with the words. Titles first, then texts; the
 * chats that changed last first. A newer search ends an older one.
 */
export async function search(
  repository: Repository,
  chats: readonly Chat[],
  query: string,
): Promise<SearchHit[]> {
  const turn = ++newest;
  const wanted = folded(query.trim());
  if (!wanted) return [];
  const byId = new Map(chats.map((chat) => [chat.id, chat]));
  const inTitles = chats.flatMap((chat) => titleHit(chat, wanted));
  const inTexts = new Map<string, { hit: SearchHit; created: number }>();
  const isNamed = new Set(inTitles.map((hit) => hit.chat));
  for await (const turns of repository.allTurns()) {
    if (turn !== newest) return [];
    for (const each of turns) {
      const chat = byId.get(each.chat);
      if (!chat || isNamed.has(chat.id) || each.deleted !== null) continue;
      if (each.created < (inTexts.get(chat.id)?.created ?? 0)) continue;
      const hit = textHit(chat, each, wanted);
      if (hit) inTexts.set(chat.id, { hit, created: each.created });
    }
    await new Promise((resolve) => setTimeout(resolve, 0));
  }
  const changed = (hit: SearchHit) => byId.get(hit.chat)?.changed ?? 0;
  const lastFirst = (hits: SearchHit[]) => hits.sort((a, b) => changed(b) - changed(a));
  const texts = [...inTexts.values()].map(({ hit }) => hit);
  return [...lastFirst(inTitles), ...lastFirst(texts)].slice(0, MAX_HITS);
}

function titleHit(chat: Chat, wanted: string): SearchHit[] {
  const start = folded(chat.title).indexOf(wanted);
  if (start < 0) return [];
  const { id, title } = chat;
  return [{ chat: id, title, turn: null, line: null, start, end: start + wanted.length }];
}

function textHit(chat: Chat, turn: Turn, wanted: string): SearchHit | null {
  const at = folded(turn.text).indexOf(wanted);
  if (at < 0) return null;
  const lineStart = turn.text.lastIndexOf("\n", at) + 1;
  const from = Math.max(lineStart, at - LINE_BEFORE);
  const lineEnd = turn.text.indexOf("\n", at + wanted.length);
  const end = Math.min(lineEnd < 0 ? turn.text.length : lineEnd, from + LINE_LENGTH);
  const before = from > lineStart ? "…" : "";
  const line = before + turn.text.slice(from, Math.max(end, at + wanted.length));
  const start = at - from + before.length;
  const { id, title } = chat;
  return { chat: id, title, turn: turn.id, line, start, end: start + wanted.length };
}

/** Lower case, of the same length: letters whose lower case is longer stay as they are. */
function folded(text: string): string {
  const lower = text.toLowerCase();
  if (lower.length === text.length) return lower;
  return Array.from(text, (letter) => {
    const small = letter.toLowerCase();
    return small.length === letter.length ? small : letter;
  }).join("");
}
