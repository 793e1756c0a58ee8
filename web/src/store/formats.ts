/**
 * Reads chats of other forms into ours: our exports, the files that `cullama chat` saves, lists of
 * messages, and ChatGPT's export. What can be read is kept; the rest is counted.
 */

import { newChat, newTurn, titleOf } from "../model/turns";
import type { Chat, Role, Sampling, ToolCall, Turn } from "../model/types";
import { isPacked, type PackedTokens } from "./packing";

export interface ReadChat {
  chat: Chat;
  turns: Turn[];
  tokens: [string, PackedTokens][];
  isDamaged: boolean;
}

type Json = Record<string, unknown>;

/** Read one chat; null: it is none of the forms, or nothing of it can be read. */
export function readChat(value: unknown): ReadChat | null {
  if (!isObject(value)) return null;
  if (isObject(value.chat) && Array.isArray(value.turns)) return readOwn(value.chat, value);
  if (isObject(value.mapping)) return readChatGpt(value, value.mapping);
  if (Array.isArray(value.messages)) return readMessages(value, value.messages);
  return null;
}

// --- our own exports -----------------------------------------------------------------------------

function readOwn(stored: Json, value: Json): ReadChat | null {
  if (!isId(stored.id)) return null;
  const id = stored.id;
  const known = new Set<string>();
  /** Of turns that cannot be read: where what was below them belongs. */
  const instead = new Map<string, string | null>();
  const turns: Turn[] = [];
  let isDamaged = false;
  const given = value.turns as unknown[];
  for (const each of given) {
    const turn = readTurn(each, id);
    if (turn) {
      turns.push(turn);
      known.add(turn.id);
      continue;
    }
    isDamaged = true;
    if (isObject(each) && isId(each.id)) {
      instead.set(each.id, isId(each.parent) ? each.parent : null);
    }
  }
  for (const turn of turns) {
    const parent = nearest(turn.parent, known, instead);
    if (parent !== turn.parent) isDamaged = true;
    turn.parent = parent;
  }
  if (!turns.length && given.length) return null;
  const tokens = readTokens(value.tokens, known);
  for (const turn of turns) turn.hasTokens = tokens.some(([of]) => of === turn.id);
  return { chat: readOwnChat(stored, id), turns, tokens, isDamaged };
}

function nearest(
  parent: string | null,
  known: Set<string>,
  instead: Map<string, string | null>,
): string | null {
  const seen = new Set<string>();
  let next = parent;
  while (next !== null && !known.has(next)) {
    if (seen.has(next)) return null;
    seen.add(next);
    next = instead.get(next) ?? null;
  }
  return next;
}

function readOwnChat(stored: Json, id: string): Chat {
  const chat: Chat = { ...newChat(), id };
  chat.title = string(stored.title);
  chat.isTitled = stored.isTitled === true;
  chat.pinned = stored.pinned === true;
  chat.created = number(stored.created) ?? chat.created;
  chat.changed = number(stored.changed) ?? chat.changed;
  chat.draft = string(stored.draft);
  if (isObject(stored.active)) {
    const pairs = Object.entries(stored.active).filter(([, child]) => typeof child === "string");
    chat.active = Object.fromEntries(pairs) as Record<string, string>;
  }
  const settings = isObject(stored.settings) ? stored.settings : {};
  chat.settings = {
    ...chat.settings,
    system: string(settings.system),
    sampling: readSampling(settings.sampling),
    preset: typeof settings.preset === "string" ? settings.preset : null,
    schema: typeof settings.schema === "string" ? settings.schema : null,
  };
  return chat;
}

const ROLES: readonly string[] = ["user", "assistant", "tool", "system"];
const STATUSES: readonly string[] = ["done", "cut", "failed"];

function readTurn(value: unknown, chat: string): Turn | null {
  if (!isObject(value) || !isId(value.id)) return null;
  if (!ROLES.includes(string(value.role)) || typeof value.text !== "string") return null;
  if (value.parent !== null && !isId(value.parent)) return null;
  const fields: Partial<Turn> = {
    id: value.id,
    created: number(value.created) ?? 0,
    text: value.text,
    reasoning: string(value.reasoning),
    toolCalls: readCalls(value.toolCalls),
    toolCallId: typeof value.toolCallId === "string" ? value.toolCallId : null,
    // One that was being written is not, here.
    status: (STATUSES.includes(string(value.status)) ? value.status : "cut") as Turn["status"],
    finishReason: (typeof value.finishReason === "string"
      ? value.finishReason
      : null) as Turn["finishReason"],
    seed: number(value.seed),
    sampling: isObject(value.sampling) ? readSampling(value.sampling) : null,
    model: typeof value.model === "string" ? value.model : null,
    strip: numbers(value.strip),
    prefixTokens: number(value.prefixTokens) ?? 0,
    prefixText: string(value.prefixText),
    leftOut: number(value.leftOut) ?? 0,
    isEdited: value.isEdited === true,
    stats: readStats(value.stats),
  };
  return newTurn(chat, value.parent, value.role as Role, fields);
}

function readStats(value: unknown): Turn["stats"] {
  if (!isObject(value) || typeof value.tokens !== "number") return null;
  return {
    tokens: value.tokens,
    rate: number(value.rate),
    firstToken: number(value.firstToken),
    promptTokens: number(value.promptTokens),
    cachedTokens: number(value.cachedTokens),
    reasoningSeconds: number(value.reasoningSeconds),
    reasoningTokens: number(value.reasoningTokens),
  };
}

function readCalls(value: unknown): ToolCall[] {
  if (!Array.isArray(value)) return [];
  return value.filter(isObject).map((call) => ({
    id: string(call.id),
    name: string(call.name),
    arguments: string(call.arguments),
  }));
}

function readTokens(value: unknown, known: Set<string>): [string, PackedTokens][] {
  if (!isObject(value)) return [];
  return Object.entries(value).filter(
    (pair): pair is [string, PackedTokens] => known.has(pair[0]) && isPacked(pair[1]),
  );
}

const NUMBERS = [
  "temperature",
  "top_p",
  "top_k",
  "min_p",
  "repetition_penalty",
  "presence_penalty",
  "frequency_penalty",
  "seed",
  "max_tokens",
  "speculation",
] as const;

function readSampling(value: unknown): Sampling {
  const sampling: Sampling = {};
  if (!isObject(value)) return sampling;
  for (const name of NUMBERS) {
    const given = value[name];
    if (typeof given === "number") sampling[name] = given;
  }
  if (Array.isArray(value.stop) && value.stop.every((each) => typeof each === "string")) {
    sampling.stop = value.stop;
  }
  return sampling;
}

// --- lists of messages: `cullama chat`'s files, and OpenAI's -------------------------------------

function readMessages(value: Json, messages: unknown[]): ReadChat | null {
  const chat = newChat();
  const turns: Turn[] = [];
  let isDamaged = false;
  for (const message of messages) {
    const text = isObject(message) ? contentText(message.content) : null;
    const calls = isObject(message) ? readWireCalls(message.tool_calls) : [];
    if (
      !isObject(message) ||
      !ROLES.includes(string(message.role)) ||
      (text === null && !calls.length)
    ) {
      isDamaged = true;
      continue;
    }
    if (message.role === "system" && !turns.length) {
      chat.settings = { ...chat.settings, system: text ?? "" };
      continue;
    }
    const fields: Partial<Turn> = { text: text ?? "", toolCalls: calls };
    if (message.role === "assistant" && typeof value.model === "string") fields.model = value.model;
    if (typeof message.tool_call_id === "string") fields.toolCallId = message.tool_call_id;
    fields.reasoning = string(message.reasoning_content);
    turns.push(newTurn(chat.id, turns.at(-1)?.id ?? null, message.role as Role, fields));
  }
  if (!turns.length) return null;
  chat.settings = { ...chat.settings, sampling: readSampling(value.params), preset: null };
  chat.isTitled = string(value.title) !== "";
  chat.title = string(value.title) || titleOf(turns[0]!.text);
  return { chat, turns, tokens: [], isDamaged };
}

function contentText(content: unknown): string | null {
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) return null;
  const texts = content.flatMap((part) => {
    if (typeof part === "string") return [part];
    return isObject(part) && typeof part.text === "string" ? [part.text] : [];
  });
  return texts.length ? texts.join("\n") : null;
}

function readWireCalls(value: unknown): ToolCall[] {
  if (!Array.isArray(value)) return [];
  return value.filter(isObject).map((call) => {
    const called = isObject(call.function) ? call.function : {};
    const given = called.arguments;
    const text = typeof given === "string" ? given : JSON.stringify(given ?? {});
    return { id: string(call.id), name: string(called.name), arguments: text };
  });
}

// --- ChatGPT's conversations.json: a tree of nodes -----------------------------------------------

function readChatGpt(value: Json, mapping: Json): ReadChat | null {
  const name = [value.conversation_id, value.id].find(isId) ?? newChat().id;
  const created = seconds(value.create_time) ?? Date.now();
  const chat: Chat = { ...newChat(), id: `g-${name}`, created };
  chat.changed = seconds(value.update_time) ?? created;
  const known = new Set<string>();
  const instead = new Map<string, string | null>();
  const turns: Turn[] = [];
  let isDamaged = false;
  for (const [id, node] of Object.entries(mapping)) {
    if (!isObject(node)) {
      isDamaged = true;
      continue;
    }
    const parent = isId(node.parent) ? `g-${node.parent}` : null;
    const turn = readNode(`g-${id}`, parent, chat, node.message);
    if (turn === "damaged") isDamaged = true;
    if (turn === null || turn === "damaged") {
      instead.set(`g-${id}`, parent);
      continue;
    }
    turns.push(turn);
    known.add(turn.id);
  }
  for (const turn of turns) turn.parent = nearest(turn.parent, known, instead);
  if (!turns.length) return null;
  chat.active = activeOf(turns, isId(value.current_node) ? `g-${value.current_node}` : null);
  const first = turns.find((turn) => turn.role === "user");
  chat.title = string(value.title) || titleOf(first?.text ?? "");
  chat.isTitled = string(value.title) !== "";
  return { chat, turns, tokens: [], isDamaged };
}

/** A node's turn; null: it has none that people wrote or read. */
function readNode(
  id: string,
  parent: string | null,
  chat: Chat,
  message: unknown,
): Turn | null | "damaged" {
  if (message === null || message === undefined) return null;
  if (!isObject(message) || !isObject(message.author)) return "damaged";
  const role = string(message.author.role);
  if (role !== "user" && role !== "assistant") return null; // its tools, and hidden instructions
  const content = isObject(message.content) ? message.content : {};
  const text = contentText(content.parts) ?? contentText(content.text);
  if (text === null) return Array.isArray(content.parts) ? "damaged" : null; // pictures alone
  if (!text) return null;
  const created = seconds(message.create_time) ?? chat.created;
  return newTurn(chat.id, parent, role, { id, text, created });
}

function activeOf(turns: Turn[], current: string | null): Record<string, string> {
  const byId = new Map(turns.map((turn) => [turn.id, turn]));
  const active: Record<string, string> = {};
  let turn = current === null ? undefined : byId.get(current);
  while (turn && active[turn.parent ?? ""] === undefined) {
    active[turn.parent ?? ""] = turn.id;
    turn = turn.parent === null ? undefined : byId.get(turn.parent);
  }
  return active;
}

// --- fields --------------------------------------------------------------------------------------

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isId(value: unknown): value is string {
  return typeof value === "string" && value !== "" && value.length <= 200;
}

function string(value: unknown): string {
  return typeof value === "string" ? value : "";
}

function number(value: unknown): number | null {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

function numbers(value: unknown): number[] {
  return Array.isArray(value) ? value.filter((each) => typeof each === "number") : [];
}

function seconds(value: unknown): number | null {
  const given = number(value);
  return given === null ? null : Math.round(given * 1000);
}
