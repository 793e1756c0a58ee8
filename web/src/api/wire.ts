/** The server's JSON, as far as the page reads it, and the requests it sends. */

import type { Asked, Sampling, Turn } from "../model/types";

/** Choices beside each token: as many as the view lists. */
export const NUM_CHOICES = 8;

export interface WireToken {
  token: string;
  token_id?: number;
  logprob: number;
  top_logprobs?: WireToken[];
}

export interface WireDelta {
  content?: string | null;
  reasoning_content?: string | null;
  reasoning?: string | null;
  tool_calls?: {
    index: number;
    id?: string;
    function?: { name?: string; arguments?: string };
  }[];
}

export interface WireChunk {
  id?: string;
  /** The request's id in the engine's view. */
  engine_request?: number;
  prompt_token_ids?: number[];
  model?: string;
  choices?: {
    index: number;
    delta?: WireDelta;
    logprobs?: { content?: WireToken[] | null } | null;
    token_ids?: number[];
    finish_reason?: string | null;
    seed?: number;
  }[];
  usage?: {
    prompt_tokens: number;
    completion_tokens: number;
    prompt_tokens_details?: { cached_tokens?: number };
    completion_tokens_details?: { reasoning_tokens?: number };
  } | null;
  timings?: {
    cache_n: number;
    prompt_n: number;
    prompt_ms: number;
    predicted_n: number;
    predicted_per_second: number;
  };
  prompt_progress?: { total: number; cache: number; processed: number; time_ms: number };
  error?: { message: string; code: string | null; type?: string };
}

export interface WireMessage {
  role: string;
  content: string | null;
  reasoning_content?: string;
  tool_calls?: { id: string; type: "function"; function: { name: string; arguments: string } }[];
  tool_call_id?: string;
}

export function messagesOf(system: string, turns: readonly Turn[]): WireMessage[] {
  const messages: WireMessage[] = system.trim() ? [{ role: "system", content: system }] : [];
  for (const turn of turns) {
    const message: WireMessage = { role: turn.role, content: turn.text };
    if (turn.toolCalls.length) {
      message.content = turn.text || null;
      message.tool_calls = turn.toolCalls.map((call) => ({
        id: call.id,
        type: "function",
        function: { name: call.name, arguments: call.arguments },
      }));
    }
    if (turn.role === "tool" && turn.toolCallId !== null) message.tool_call_id = turn.toolCallId;
    // An answer that was cut before its first token has nothing that a template could read.
    if (turn.role === "assistant" && !turn.text && !turn.toolCalls.length) continue;
    messages.push(message);
  }
  return messages;
}

export type WireBody = Record<string, unknown>;

/** Fields that a server may not know: left out when it refuses them by name. */
export const OPTIONAL_FIELDS = ["return_progress", "return_token_ids"] as const;

export interface Beginning {
  /** The answer's first tokens, which it goes on from. */
  ids?: number[];
  /** Give them back, too, with their text. */
  echo?: boolean;
  /** The last message is the answer's beginning: where its tokens are not known. */
  isFinalMessage?: boolean;
}

export function chatBody(
  messages: WireMessage[],
  asked: Omit<Asked, "system">,
  sampling: Sampling,
  seed: number,
  beginning: Beginning = {},
): WireBody {
  const body: WireBody = {
    ...sampling,
    messages,
    seed,
    stream: true,
    resumable: true,
    stream_options: { include_usage: true },
    logprobs: true,
    top_logprobs: NUM_CHOICES,
    return_token_ids: true,
    return_progress: true,
  };
  if (asked.schema !== null) {
    body.response_format = {
      type: "json_schema",
      json_schema: { name: "answer", strict: true, schema: JSON.parse(asked.schema) },
    };
  }
  if (asked.tools.length && asked.toolChoice !== "none") {
    body.tools = asked.tools.map((tool) => ({ type: "function", function: tool }));
    body.tool_choice = asked.toolChoice;
  }
  if (beginning.ids?.length) {
    body.answer_token_ids = beginning.ids;
    if (beginning.echo) body.echo = true;
  }
  if (beginning.isFinalMessage) body.continue_final_message = true;
  return body;
}
