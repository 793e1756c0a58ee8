/**
 * Chats and turns in memory, as the views see them; written through to the repository.
 *
 * A change shows at once. What comes back from the storage, or from other tabs, takes its place when
 * no change of this tab is still under way to the storage.
 */

import {
  type Chat,
  type ChatId,
  type ChatSummary,
  type Place,
  path,
  type Tree,
  type Turn,
  type TurnId,
  treeOf,
} from "../model";
import type { Changes, Update, Written } from "../store/repository";
import * as cells from "./cells";
import { context } from "./context";
import type { ChatView } from "./contract";

const chats = new Map<ChatId, Chat>();
const turnsOf = new Map<ChatId, Map<TurnId, Turn>>();
const opening = new Map<ChatId, Promise<void>>();
/** Answers under way, in any tab, and the chats they belong to. */
const writing = new Map<TurnId, ChatId>();
/** Changes on their way to the storage, by record. */
const pending = new Map<string, number>();
/** Called with turns that another tab wrote. */
const listeners = new Set<(turn: Turn) => void>();

/** Read all chats; called once. Returns the answers that were being written. */
export async function startLibrary(): Promise<Turn[]> {
  const repository = await context.opened;
  repository.onWritten = (written, isOwn) => {
    if (!isOwn) take(written, true);
  };
  repository.onStorage = (state) => cells.storage.set(state);
  cells.storage.set(repository.storage);
  const [stored, unfinished] = await Promise.all([repository.chats(), repository.unfinished()]);
  for (const chat of stored) if (!chats.has(chat.id)) chats.set(chat.id, chat);
  for (const turn of unfinished) if (turn.deleted === null) writing.set(turn.id, turn.chat);
  publishList();
  for (const id of chats.keys()) publish(id);
  return unfinished.filter((turn) => turn.deleted === null);
}

/** Forget everything: for tests. */
export function resetLibrary(): void {
  for (const map of [chats, turnsOf, opening, writing, pending]) map.clear();
  listeners.clear();
  cells.chats.set(undefined);
}

export function onForeignTurn(listener: (turn: Turn) => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function getChat(id: ChatId): Chat | undefined {
  return chats.get(id);
}

export function allChats(): Chat[] {
  return [...chats.values()].filter((chat) => chat.deleted === null);
}

/** A chat's tree; null where it is not open. */
export function getTree(id: ChatId): Tree | null {
  const turns = turnsOf.get(id);
  const chat = chats.get(id);
  return turns && chat ? { turns, active: chat.active } : null;
}

/** A turn of an open chat. */
export function getTurn(id: TurnId): Turn | undefined {
  for (const turns of turnsOf.values()) {
    const turn = turns.get(id);
    if (turn) return turn;
  }
  return undefined;
}

/** Read a chat's turns, and show it. */
export function openChat(id: ChatId): Promise<void> {
  let work = opening.get(id);
  if (!work) {
    work = readTurns(id);
    opening.set(id, work);
  }
  return work;
}

async function readTurns(id: ChatId): Promise<void> {
  const stored = await (await context.opened).turns(id);
  const known = turnsOf.get(id);
  turnsOf.set(id, new Map([...stored.map((turn) => [turn.id, turn] as const), ...(known ?? [])]));
  publish(id);
}

/** An import brought turns of a chat that is open. */
async function reread(id: ChatId): Promise<void> {
  take({ chats: [], turns: await (await context.opened).turns(id) }, false);
}

/** Change records: at once in memory, then in the storage. */
export async function change(changes: Changes): Promise<void> {
  const ids: string[] = [];
  const touched = new Set<ChatId>();
  for (const update of changes.chats ?? []) {
    const chat = apply(chats.get(update.id), update);
    if (chat) chats.set(chat.id, chat);
    touched.add(update.id);
    ids.push(update.id);
  }
  for (const update of changes.turns ?? []) {
    const turn = apply(getTurn(update.id), update);
    ids.push(update.id);
    if (turn) touched.add(setTurn(turn));
  }
  for (const id of ids) pending.set(id, (pending.get(id) ?? 0) + 1);
  for (const id of touched) publish(id);
  publishList();
  const written = await (await context.opened).save(changes);
  for (const id of ids) {
    const left = (pending.get(id) ?? 1) - 1;
    if (left) pending.set(id, left);
    else pending.delete(id);
  }
  take(written, false);
}

function apply<Kept>(record: Kept | undefined, update: Update<Kept>): Kept | undefined {
  return update.make(record);
}

function setTurn(turn: Turn): ChatId {
  let turns = turnsOf.get(turn.chat);
  if (!turns) {
    turns = new Map();
    turnsOf.set(turn.chat, turns);
  }
  turnsOf.set(turn.chat, new Map(turns).set(turn.id, turn));
  if (turn.status === "writing" && turn.deleted === null) writing.set(turn.id, turn.chat);
  else writing.delete(turn.id);
  return turn.chat;
}

/** Take records from the storage, or from another tab. */
function take(written: Written, isForeign: boolean): void {
  const touched = new Set<ChatId>();
  for (const chat of written.chats) {
    if (pending.has(chat.id)) continue;
    const known = chats.get(chat.id);
    if (known && known.version >= chat.version) continue;
    chats.set(chat.id, chat);
    touched.add(chat.id);
  }
  for (const turn of written.turns) {
    if (pending.has(turn.id)) continue;
    const known = turnsOf.get(turn.chat)?.get(turn.id);
    if (known && known.version >= turn.version) continue;
    if (turnsOf.has(turn.chat)) touched.add(setTurn(turn));
    else if (turn.status === "writing" && turn.deleted === null) writing.set(turn.id, turn.chat);
    else writing.delete(turn.id);
    if (isForeign) for (const listener of listeners) listener(turn);
  }
  for (const id of touched) publish(id);
  if (written.chats.length || written.turns.length) publishList();
  for (const id of written.reread ?? []) if (turnsOf.has(id)) void reread(id);
}

/** Show a chat's new state to the views that watch it. */
function publish(id: ChatId): void {
  const chat = chats.get(id);
  const cell = cells.chat.of(id);
  if (!chat || chat.deleted !== null) {
    if (opening.has(id) || chat) cell.set(null);
    return;
  }
  const turns = turnsOf.get(id);
  if (!turns || !opening.has(id)) return;
  const last = cell.get()?.path ?? [];
  const shown = kept(last, path(treeOf(turns.values(), chat.active)));
  cell.set(viewOf(chat, shown));
}

/** The places of a branch, those that are as before as the same objects: views compare them so. */
function kept(last: Place[], next: Place[]): Place[] {
  let isSame = last.length === next.length;
  const places = next.map((place, k) => {
    const old = last[k];
    const { turn, index, count } = place;
    if (old?.turn === turn && old.index === index && old.count === count) return old;
    isSame = false;
    return place;
  });
  return isSame ? last : places;
}

function viewOf(chat: Chat, shown: Place[]): ChatView {
  const answers = shown.filter(({ turn }) => turn.role === "assistant");
  const answer = answers.at(-1)?.turn;
  // Of one that was refused no figures are known: those before it stand.
  const known = answers.findLast(({ turn }) => turn.stats?.promptTokens != null)?.turn.stats;
  return {
    chat,
    path: shown,
    leftOut: answer?.leftOut ?? 0,
    usedTokens: known ? known.promptTokens! + known.tokens : answer ? null : 0,
  };
}

function publishList(): void {
  const busy = new Set(writing.values());
  const rows: ChatSummary[] = [];
  for (const chat of chats.values()) {
    if (chat.deleted !== null || isBlank(chat)) continue;
    const { id, title, pinned, changed } = chat;
    rows.push({ id, title, pinned, changed, isWriting: busy.has(id) });
  }
  rows.sort((a, b) => Number(b.pinned) - Number(a.pinned) || b.changed - a.changed);
  const last = cells.chats.get();
  if (!last || !isSameList(last, rows)) cells.chats.set(rows);
}

/** A chat that was made and never used: kept for this tab, not listed. */
function isBlank(chat: Chat): boolean {
  return !chat.title && !chat.draft && chat.version === 0;
}

function isSameList(a: ChatSummary[], b: ChatSummary[]): boolean {
  return (
    a.length === b.length &&
    a.every((row, k) => {
      const other = b[k]!;
      return (
        row.id === other.id &&
        row.title === other.title &&
        row.pinned === other.pinned &&
        row.changed === other.changed &&
        row.isWriting === other.isWriting
      );
    })
  );
}

/** Keep a chat in memory alone until something is in it. */
export function addBlank(chat: Chat): void {
  chats.set(chat.id, chat);
  turnsOf.set(chat.id, new Map());
  opening.set(chat.id, Promise.resolve());
  publish(chat.id);
}

/** An update of a chat that exists, or one that was blank until now. */
export function chatUpdate(id: ChatId, make: (chat: Chat) => Chat): Update<Chat> {
  const known = chats.get(id);
  return {
    id,
    make: (stored) => {
      const chat = stored ?? known;
      return chat && make(chat);
    },
  };
}

export function turnUpdate(id: TurnId, make: (turn: Turn) => Turn): Update<Turn> {
  return { id, make: (stored) => stored && make(stored) };
}

export function newTurnUpdate(turn: Turn): Update<Turn> {
  return { id: turn.id, make: (stored) => stored ?? turn };
}
