/** Puts an answer together from the chunks of its stream. */

import type { Failure, FinishReason, TokenRecord, ToolCall, TurnStats } from "../model/types";
import { kindOf } from "./client";
import type { WireChunk, WireDelta, WireToken } from "./wire";

export interface Begun {
  text?: string;
  reasoning?: string;
  toolCalls?: readonly ToolCall[];
  tokens?: readonly TokenRecord[];
  stats?: TurnStats | null;
}

/** What is known of an answer so far. `begun` ones go on from what was stored. */
export class Answer {
  id: string | null = null;
  engineRequest: number | null = null;
  model: string | null = null;
  text: string;
  reasoning: string;
  toolCalls: ToolCall[];
  tokens: TokenRecord[];
  strip: number[];
  finishReason: FinishReason | null = null;
  failure: Failure | null = null;
  seed: number | null = null;
  progress: { done: number; total: number; cached: number; seconds: number | null } | null = null;
  promptTokens: number | null = null;
  cachedTokens: number | null = null;
  rate: number | null = null;
  firstToken: number | null = null;
  reasoningTokens: number | null = null;
  /** performance.now() of its beginning and end; null: not yet. */
  reasoningBegan: number | null = null;
  reasoningEnded: number | null = null;
  /** Tokens that earlier requests of this answer wrote. */
  readonly #before: number;
  #written = 0;

  constructor(begun: Begun = {}) {
    this.text = begun.text ?? "";
    this.reasoning = begun.reasoning ?? "";
    this.tokens = [...(begun.tokens ?? [])];
    this.strip = this.tokens.map((token) => surprise(token.logprob));
    this.toolCalls = [...(begun.toolCalls ?? [])];
    this.promptTokens = begun.stats?.promptTokens ?? null;
    this.cachedTokens = begun.stats?.cachedTokens ?? null;
    this.firstToken = begun.stats?.firstToken ?? null;
    this.#before = this.tokens.length;
  }

  /** Whether the model has written something. */
  get hasBegun(): boolean {
    return this.#written > 0 || this.text !== "" || this.reasoning !== "";
  }

  get numTokens(): number {
    return Math.max(this.tokens.length, this.#before + this.#written);
  }

  add(chunk: WireChunk, now = performance.now()): void {
    this.id ??= chunk.id ?? null;
    this.model ??= chunk.model ?? null;
    this.promptTokens ??= chunk.prompt_token_ids?.length ?? null;
    this.engineRequest ??= chunk.engine_request ?? null;
    // One that was cancelled has not failed: it can be continued, as one that was lost.
    if (chunk.error && chunk.error.code !== "cancelled") this.#fail(chunk.error);
    if (chunk.prompt_progress) this.#readProgress(chunk.prompt_progress);
    const choice = chunk.choices?.[0];
    if (choice) {
      this.seed ??= choice.seed ?? null;
      if (choice.delta) this.#addDelta(choice.delta, now);
      const tokens = choice.logprobs?.content ?? [];
      for (const token of tokens) this.#addToken(token);
      this.#written += choice.token_ids?.length ?? tokens.length;
      if (choice.finish_reason) this.finishReason = reasonOf(choice.finish_reason);
    }
    if (chunk.timings) this.#readTimings(chunk.timings);
    if (chunk.usage) this.#readUsage(chunk.usage);
  }

  stats(): TurnStats {
    const { reasoningBegan, reasoningEnded } = this;
    return {
      tokens: this.numTokens,
      rate: this.rate,
      firstToken: this.firstToken,
      promptTokens: this.promptTokens,
      cachedTokens: this.cachedTokens,
      reasoningSeconds:
        reasoningBegan === null || reasoningEnded === null
          ? null
          : (reasoningEnded - reasoningBegan) / 1000,
      reasoningTokens: this.reasoningTokens,
    };
  }

  #addDelta(delta: WireDelta, now: number): void {
    const thought = delta.reasoning_content ?? delta.reasoning ?? "";
    if (thought) {
      this.reasoningBegan ??= now;
      this.reasoning += thought;
    }
    if (delta.content || delta.tool_calls?.length) {
      if (this.reasoningBegan !== null) this.reasoningEnded ??= now;
    }
    this.text += delta.content ?? "";
    for (const part of delta.tool_calls ?? []) {
      this.toolCalls[part.index] ??= { id: "", name: "", arguments: "" };
      const call = this.toolCalls[part.index]!;
      this.toolCalls[part.index] = {
        id: part.id ?? call.id,
        name: call.name + (part.function?.name ?? ""),
        arguments: call.arguments + (part.function?.arguments ?? ""),
      };
    }
  }

  #addToken(token: WireToken): void {
    this.tokens.push({ ...choiceOf(token), top: (token.top_logprobs ?? []).map(choiceOf) });
    this.strip.push(surprise(token.logprob));
  }

  #readProgress(progress: NonNullable<WireChunk["prompt_progress"]>): void {
    const { total, cache, processed, time_ms } = progress;
    const computed = processed - cache;
    const seconds = computed > 0 ? ((total - processed) / computed) * (time_ms / 1000) : null;
    this.progress = { done: processed, total, cached: cache, seconds };
    this.promptTokens = total;
    this.cachedTokens = cache;
  }

  #readTimings(timings: NonNullable<WireChunk["timings"]>): void {
    this.promptTokens = timings.cache_n + timings.prompt_n;
    this.cachedTokens = timings.cache_n;
    if (timings.predicted_per_second > 0) this.rate = timings.predicted_per_second;
    if (timings.predicted_n > 0) this.firstToken = timings.prompt_ms / 1000;
  }

  #readUsage(usage: NonNullable<WireChunk["usage"]>): void {
    this.promptTokens = usage.prompt_tokens;
    this.cachedTokens = usage.prompt_tokens_details?.cached_tokens ?? this.cachedTokens;
    this.reasoningTokens = usage.completion_tokens_details?.reasoning_tokens ?? null;
  }

  #fail(error: NonNullable<WireChunk["error"]>): void {
    const kind = error.code === "engine_unavailable" ? "engine" : kindOf(500, error.code);
    this.failure = { kind, message: error.message };
    this.finishReason = "error";
  }
}

function choiceOf(token: WireToken) {
  return { id: token.token_id ?? null, text: token.token, logprob: token.logprob };
}

function reasonOf(word: string): FinishReason {
  return word === "length" || word === "tool_calls" ? word : "stop";
}

/** 0 where the token was certain, 1 where its probability was 1 in 1000 or less. */
export function surprise(logprob: number): number {
  return Math.round(100 * Math.min(1, -logprob / Math.log(1000))) / 100;
}
