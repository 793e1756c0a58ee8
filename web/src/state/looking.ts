/** Looks at what the server makes of things: the prompt of an answer, a token's layers, a schema. */

import { ApiError, messagesOf } from "../api";
import type { PromptPart, PromptToken, PromptView, Role, TokenLayers, TurnId } from "../model";
import { context } from "./context";
import type { SchemaVerdict } from "./contract";
import { lineOfPlace } from "./json_place";
import { getTree, getTurn } from "./library";
import { askedOf, promptTurns } from "./prompts";

interface WirePrompt {
  prompt: string;
  tokens: { id: number; piece: string; bytes?: number[]; is_control?: boolean }[];
  turns?: { message: number | null; role: string | null; start: number; end: number }[] | null;
}

export async function loadPrompt(id: TurnId): Promise<PromptView | { error: string }> {
  const turn = getTurn(id);
  const tree = turn && getTree(turn.chat);
  if (!turn || !tree) return { error: "" };
  const { system, tools } = askedOf(turn);
  const messages = messagesOf(system, promptTurns(tree, turn));
  const body: Record<string, unknown> = { messages, with_pieces: true };
  if (tools.length) body.tools = tools.map((tool) => ({ type: "function", function: tool }));
  try {
    const asked = { method: "POST", body } as const;
    const wire = await context.client.json<WirePrompt>("apply-template", asked);
    return promptOf(wire, turn.stats?.cachedTokens ?? null);
  } catch (error) {
    return { error: error instanceof ApiError ? error.message : String(error) };
  }
}

export function promptOf(wire: WirePrompt, cached: number | null): PromptView {
  const tokens: PromptToken[] = wire.tokens.map((token) => ({
    id: token.id,
    text: token.piece,
    isControl: token.is_control ?? false,
    bytes: token.bytes ?? [],
  }));
  const parts: PromptPart[] = (wire.turns ?? []).map(({ role, start, end }, k, all) => ({
    // What the template itself writes: at the end the header of the answer, else a system prompt.
    role: role === null ? (k === all.length - 1 ? "next" : "system") : roleOf(role),
    start,
    end,
  }));
  if (!parts.length) parts.push({ role: "user", start: 0, end: tokens.length });
  return { text: wire.prompt, tokens, parts, cached };
}

function roleOf(word: string): Role {
  return word === "system" || word === "assistant" || word === "tool" ? word : "user";
}

interface WireCheck {
  is_valid: boolean;
  milliseconds: number | null;
  message: string | null;
  pointer: string | null;
  keyword: string | null;
}

/** Have the server compile a schema: how long it took, or what of it cannot be had, and where. */
export async function checkSchema(text: string): Promise<SchemaVerdict> {
  let schema: unknown;
  try {
    schema = JSON.parse(text);
  } catch (error) {
    return {
      ok: false,
      message: (error as SyntaxError).message,
      line: lineOfError(text, error),
      keyword: null,
    };
  }
  const format = { type: "json_schema", json_schema: { name: "answer", strict: true, schema } };
  try {
    const asked = { method: "POST", body: { response_format: format } } as const;
    const wire = await context.client.json<WireCheck>("check-form", asked);
    if (wire.is_valid) return { ok: true, milliseconds: wire.milliseconds };
    const { pointer, keyword, message } = wire;
    const line = pointer === null ? null : lineOfPlace(text, pointer);
    return { ok: false, message: message ?? "", line, keyword };
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    return { ok: false, message: error.message, line: null, keyword: null };
  }
}

interface WireLayers {
  layers: {
    layer: number | null;
    probability: number;
    rank: number;
    top: { id: number; piece: string; probability: number }[];
  }[];
  looked_at: { position: number; piece: string; weight: number }[];
}

const NUM_SOURCES = 8;

/** What each layer would have said in place of a token of an answer, and what it looked at. */
export async function loadLayers(
  id: TurnId,
  at: number,
  signal: AbortSignal,
): Promise<TokenLayers | { error: string }> {
  const [prompt, tokens] = await Promise.all([
    loadPrompt(id),
    context.opened.then((repository) => repository.tokens(id)),
  ]);
  if ("error" in prompt) return prompt;
  const ids = tokens?.slice(0, at + 1).map((token) => token.id) ?? [];
  const token = ids.pop();
  if (token === undefined || token === null || ids.includes(null)) return { error: "" };
  const before = [...prompt.tokens.map((each) => each.id), ...ids];
  const body = { tokens: before, token, top: NUM_SOURCES };
  try {
    const asked = { method: "POST", body, signal } as const;
    return layersOf(await context.client.json<WireLayers>("layers", asked));
  } catch (error) {
    return { error: error instanceof ApiError ? error.message : "" };
  }
}

function layersOf(wire: WireLayers): TokenLayers {
  const states = wire.layers.map(({ layer, probability, rank, top }) => ({
    layer: layer === null ? null : layer + 1,
    probability,
    rank,
    likeliest: { text: top[0]?.piece ?? "", probability: top[0]?.probability ?? 0 },
  }));
  const sources = wire.looked_at.map(({ position, piece, weight }) => ({
    isFirst: position === 0,
    text: piece,
    weight,
  }));
  return { states, sources };
}

/** The line of a JSON error, which browsers tell by line or by position. */
function lineOfError(text: string, error: unknown): number | null {
  const message = String(error);
  const line = /line (\d+)/.exec(message)?.[1];
  if (line) return Number(line);
  const position = /position (\d+)/.exec(message)?.[1];
  if (position) return lineAt(text, Number(position));
  return /end of (JSON )?(input|data)/i.test(message) ? text.split("\n").length : null;
}

function lineAt(text: string, position: number): number {
  return text.slice(0, position).split("\n").length;
}
