/** Looks at what the server makes of things: the prompt of an answer, a schema. */

import { ApiError, messagesOf } from "../api";
import type { PromptPart, PromptToken, PromptView, Role, TurnId } from "../model";
import { context } from "./context";
import type { SchemaVerdict } from "./contract";
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

/** Ask the server for one token under a schema: it compiles it, or says what it cannot do. */
export async function checkSchema(text: string): Promise<SchemaVerdict> {
  let schema: unknown;
  try {
    schema = JSON.parse(text);
  } catch (error) {
    return { ok: false, message: String(error), line: lineOfError(text, error), keyword: null };
  }
  const format = { type: "json_schema", json_schema: { name: "answer", strict: true, schema } };
  const messages = [{ role: "user", content: "{" }];
  const body = { messages, max_tokens: 1, response_format: format };
  const began = performance.now();
  try {
    await context.client.json("v1/chat/completions", { method: "POST", body });
    return { ok: true, milliseconds: Math.round(performance.now() - began) };
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    const quoted = /["'“]([$\w]+)["'”]/.exec(error.message)?.[1] ?? null;
    const keyword = quoted !== null && text.includes(`"${quoted}"`) ? quoted : null;
    const line = keyword === null ? null : lineAt(text, text.indexOf(`"${keyword}"`));
    return { ok: false, message: error.message, line, keyword };
  }
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
