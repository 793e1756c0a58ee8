/** The answers that are being written: by this tab, or read along with another. */

import type { Beginning } from "../api";
import type { TokenRecord, Turn, TurnId } from "../model";
import { context } from "./context";
import { getTurn, onForeignTurn, openChat } from "./library";
import { Writer } from "./writer";

const writers = new Map<TurnId, Writer>();

/** Answer a turn that is in the tree with status "writing". */
export function write(turn: Turn, begun: TokenRecord[] = [], beginning: Beginning = {}): void {
  const writer = new Writer(turn, begun, beginning);
  writers.set(turn.id, writer);
  void owned(turn.id, async () => {
    await writer.run();
    if (writers.get(turn.id) === writer) writers.delete(turn.id);
  });
}

export function stop(id: TurnId): boolean {
  const writer = writers.get(id);
  writer?.stop();
  return writer !== undefined;
}

export function isWriting(id: TurnId): boolean {
  return writers.has(id);
}

/** The answer that a request of the engine's view writes, where this tab follows it. */
export function turnOfRequest(request: number): TurnId | null {
  for (const [id, writer] of writers) if (writer.engineRequest === request) return id;
  return null;
}

/** Go on with answers that were being written when the page was left. */
export function resumeAll(unfinished: Turn[]): void {
  for (const turn of unfinished) void owned(turn.id, () => resume(turn.id, turn.chat));
}

async function resume(id: TurnId, chat: string): Promise<void> {
  await openChat(chat);
  if (writers.has(id)) return;
  const turn = getTurn(id);
  if (turn?.status !== "writing" || turn.deleted !== null) return;
  const begun = (await (await context.opened).tokens(id)) ?? [];
  const writer = new Writer(turn, begun, beginningOf(turn, begun));
  writers.set(id, writer);
  await writer.run();
  writers.delete(id);
}

/** How an answer began, by what is stored of it: for a request that has to be made again. */
export function beginningOf(turn: Turn, tokens: TokenRecord[]): Beginning {
  if (turn.streamId !== null) return {};
  const ids = tokens.map((token) => token.id).filter((id) => id !== null);
  if (ids.length && ids.length === tokens.length) {
    return turn.text ? { ids } : { ids, echo: true };
  }
  return turn.text ? { isFinalMessage: true } : {};
}

/** Work on an answer that no other tab works on; where one does, wait until it ends. */
async function owned(id: TurnId, work: () => Promise<void>): Promise<void> {
  // On plain http there are no locks: there two tabs may read the same stream, and store the same.
  if (typeof navigator === "undefined" || !navigator.locks) await work();
  else await navigator.locks.request(`cullama-turn-${id}`, work);
}

/** Follow what other tabs write: read along what is shown, and leave what they ended. */
export function startStreams(): void {
  onForeignTurn((turn) => {
    const writer = writers.get(turn.id);
    if (turn.status !== "writing" || turn.deleted !== null) {
      writer?.leave();
      return;
    }
    if (writer || !getTurn(turn.id)) return; // a chat that is not open here
    void followAlong(turn);
  });
  addEventListener("online", () => wakeAll(0));
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) flushAll();
    else wakeAll(12_000); // longer than keep-alives take
  });
  addEventListener("pagehide", flushAll);
}

/** Read along with the tab that writes an answer; when that tab is closed, its stream is ours. */
async function followAlong(turn: Turn): Promise<void> {
  if (turn.streamId === null || writers.has(turn.id)) return;
  const begun = (await (await context.opened).tokens(turn.id)) ?? [];
  if (writers.has(turn.id)) return;
  const writer = new Writer(turn, begun);
  writer.isOwner = false;
  writers.set(turn.id, writer);
  const ended = writer.run().finally(() => writers.delete(turn.id));
  void owned(turn.id, async () => {
    writer.isOwner = true;
    await ended;
  });
  await ended;
}

function wakeAll(silentMs: number): void {
  for (const writer of writers.values()) writer.wake(silentMs);
}

export function flushAll(): void {
  for (const writer of writers.values()) writer.flush();
}
