/** Makes the request of an answer, and leaves the oldest turns out where the context is full. */

import {
  ApiError,
  type Beginning,
  chatBody,
  messagesOf,
  OPTIONAL_FIELDS,
  type WireBody,
  type WireMessage,
} from "../api";
import { type Asked, ancestry, NO_SETTINGS, type Tree, type Turn } from "../model";
import * as cells from "./cells";
import { context } from "./context";
import { getChat } from "./library";

/** Fields that this server does not know. */
const unknown = new Set<string>();

/** The request of an answer that is in the tree. */
export function requestOf(tree: Tree, turn: Turn, beginning: Beginning): WireBody {
  const asked = askedOf(turn);
  const messages = messagesOf(asked.system, promptTurns(tree, turn));
  if (beginning.isFinalMessage) messages.push({ role: "assistant", content: turn.text });
  return chatBody(messages, asked, turn.sampling ?? {}, turn.seed ?? 0, beginning);
}

/** What was sent with an answer's prompt; what the chat sends now, where that is not known. */
export function askedOf(turn: Turn): Asked {
  return turn.asked ?? getChat(turn.chat)?.settings ?? NO_SETTINGS;
}

/** The turns before an answer, without those that are left out. */
export function promptTurns(tree: Tree, turn: Turn): Turn[] {
  return ancestry(tree, turn.id).slice(turn.leftOut, -1);
}

/** Ask for a stream; fields that the server does not know are left out. */
export async function ask(body: WireBody, signal: AbortSignal): Promise<Response> {
  for (;;) {
    const known = Object.fromEntries(Object.entries(body).filter(([name]) => !unknown.has(name)));
    try {
      return await context.client.ask("v1/chat/completions", {
        method: "POST",
        body: known,
        signal,
      });
    } catch (error) {
      const param = error instanceof ApiError ? error.param : null;
      const isOptional = param !== null && OPTIONAL_FIELDS.some((name) => name === param);
      if (!isOptional || unknown.has(param)) throw error;
      unknown.add(param);
    }
  }
}

/** At least so much of the context is kept free for an answer. */
const ROOM = 256;

/**
 * How many of the oldest turns have to be left out of an answer's prompt, so that it fits and leaves
 * room. The turn that is answered always stays: where it alone is too long, the server says so.
 */
export async function fitPrompt(tree: Tree, turn: Turn, signal: AbortSignal): Promise<number> {
  const state = cells.server.get();
  const length = state.kind === "ready" ? state.props.contextLength : null;
  if (length === null) return turn.leftOut;
  const turns = ancestry(tree, turn.id).slice(0, -1);
  // A prompt begins with a question: the others begin in the middle of an exchange.
  const starts = turns.flatMap((each, k) => (each.role === "user" ? [k] : []));
  const room = Math.min(ROOM, Math.floor(length / 4));
  let [low, high] = [0, starts.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    const messages = messagesOf(askedOf(turn).system, turns.slice(starts[middle]));
    if ((await countTokens(messages, signal)) + room <= length) high = middle;
    else low = middle + 1;
  }
  return starts[low] ?? 0;
}

async function countTokens(messages: WireMessage[], signal: AbortSignal): Promise<number> {
  const { tokens } = await context.client.json<{ tokens: unknown[] }>("apply-template", {
    method: "POST",
    body: { messages },
    signal,
  });
  return tokens.length;
}

/** Whether a prompt may be too long, by what is known without asking. */
export function mayOverflow(tree: Tree, turn: Turn): boolean {
  const state = cells.server.get();
  if (state.kind !== "ready") return false;
  const turns = ancestry(tree, turn.id).slice(0, -1);
  const answer = turns.findLast((each) => each.stats?.promptTokens != null);
  const behind = answer ? turns.slice(turns.indexOf(answer) + 1) : turns;
  // A token is seldom less than a byte; four are usual. Where it may be near, the server counts.
  const characters = behind.reduce((sum, each) => sum + each.text.length, 0);
  const known = (answer?.stats?.promptTokens ?? 0) + (answer?.stats?.tokens ?? 0);
  const wasFull = (answer?.leftOut ?? 0) > 0;
  return wasFull || known + characters + ROOM > state.props.contextLength;
}
