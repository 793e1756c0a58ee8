/** Replays answers: the same request with the same seed again, compared token by token. */

import { Answer, ApiError, readEvents, type WireChunk } from "../api";
import { newTurn, type TokenRecord, type Turn, type TurnId } from "../model";
import * as cells from "./cells";
import { context } from "./context";
import { change, chatUpdate, getTree, getTurn, newTurnUpdate, turnUpdate } from "./library";
import { ask, requestOf } from "./prompts";
import { failedWith } from "./server";

const running = new Map<TurnId, AbortController>();

/** Replay an answer; a second call while it runs ends it. */
export async function replay(id: TurnId): Promise<void> {
  const under = running.get(id);
  if (under) {
    under.abort();
    return;
  }
  const turn = getTurn(id);
  if (turn?.role !== "assistant" || turn.status === "writing" || turn.seed === null) return;
  const control = new AbortController();
  running.set(id, control);
  const cell = cells.replay.of(id);
  cell.set({ done: 0, total: turn.stats?.tokens ?? 0 });
  try {
    const stored = (await (await context.opened).tokens(id)) ?? [];
    const again = await answerAgain(turn, stored, control.signal, (done) => {
      cell.set({ done, total: turn.stats?.tokens ?? stored.length });
    });
    if (again) await compare(turn, stored, again);
  } catch (error) {
    if (error instanceof ApiError) failedWith(error);
  } finally {
    running.delete(id);
    cell.set(null);
  }
}

async function answerAgain(
  turn: Turn,
  stored: TokenRecord[],
  signal: AbortSignal,
  progress: (done: number) => void,
): Promise<Answer | null> {
  const ids = stored.slice(0, turn.prefixTokens).map((token) => token.id ?? -1);
  const tree = getTree(turn.chat);
  if (!tree || ids.includes(-1)) return null;
  const body = requestOf(tree, turn, { ids, echo: true });
  // One that was cut is compared as far as it goes.
  if (turn.status !== "done" && turn.stats) {
    body.max_tokens = Math.max(1, turn.stats.tokens - turn.prefixTokens);
  }
  const { resumable: _, ...once } = body;
  const answer = new Answer();
  for await (const events of readEvents(await ask(once, signal))) {
    for (const { data } of events) answer.add(JSON.parse(data) as WireChunk);
    progress(answer.numTokens);
  }
  return answer;
}

async function compare(turn: Turn, stored: TokenRecord[], again: Answer): Promise<void> {
  const at = difference(turn, stored, again);
  if (at === null) {
    const tokens = stored.length ? [] : [{ turn: turn.id, tokens: again.tokens }];
    const make = (now: Turn): Turn => ({
      ...now,
      replay: { same: true },
      hasTokens: now.hasTokens || again.tokens.length > 0,
      strip: now.strip.length ? now.strip : again.strip,
    });
    await change({ turns: [turnUpdate(turn.id, make)], tokens });
    return;
  }
  const { text, reasoning, toolCalls, seed, finishReason, strip } = again;
  const branch = newTurn(turn.chat, turn.parent, "assistant", {
    ...{ text, reasoning, toolCalls, seed, finishReason, strip },
    status: finishReason === "length" ? "cut" : "done",
    stats: again.stats(),
    sampling: turn.sampling,
    asked: turn.asked,
    model: again.model,
    hasTokens: again.tokens.length > 0,
    leftOut: turn.leftOut,
  });
  const shown = getTurn(turn.id);
  await change({
    turns: [
      newTurnUpdate(branch),
      turnUpdate(turn.id, (now) => ({
        ...now,
        replay: { same: false, at, branch: branch.id },
      })),
    ],
    tokens: [{ turn: branch.id, tokens: again.tokens }],
    // The new branch is beside the answer; the answer stays in view.
    chats: shown ? [chatUpdate(turn.chat, (chat) => showing(chat, turn))] : [],
  });
}

function showing<Kept extends { active: Record<string, string> }>(chat: Kept, turn: Turn): Kept {
  return { ...chat, active: { ...chat.active, [turn.parent ?? ""]: turn.id } };
}

/** The first token that differs, from 0; null: none. Without stored tokens, texts are compared. */
export function difference(
  turn: Pick<Turn, "text" | "reasoning" | "status">,
  stored: readonly TokenRecord[],
  again: Pick<Answer, "text" | "reasoning" | "tokens">,
): number | null {
  const isWhole = turn.status === "done";
  if (stored.length) {
    const shorter = Math.min(stored.length, again.tokens.length);
    for (let k = 0; k < shorter; k++) if (!isSame(stored[k]!, again.tokens[k]!)) return k;
    const isEnough = isWhole
      ? stored.length === again.tokens.length
      : stored.length <= again.tokens.length;
    return isEnough ? null : shorter;
  }
  const [before, now] = [turn.reasoning + turn.text, again.reasoning + again.text];
  if (isWhole ? before === now : now.startsWith(before)) return null;
  let [at, end] = [0, 0];
  for (const token of again.tokens) {
    end += token.text.length;
    if (before.slice(0, end) !== now.slice(0, end)) break;
    at += 1;
  }
  return at;
}

function isSame(a: TokenRecord, b: TokenRecord): boolean {
  return a.id !== null && b.id !== null ? a.id === b.id : a.text === b.text;
}
