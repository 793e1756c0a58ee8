/** Reads the events of /engine into what the engine's view shows. */

import type { EngineBlocks, EngineRequest, EngineState, EngineStep } from "../model/types";

export interface WireEngine {
  status: { state: string; reason: string | null };
  requests: {
    id: number | string;
    stage: string;
    prompt_tokens: number;
    tokens: number;
    max_tokens: number | null;
    computed_tokens?: number;
    cached_tokens?: number;
    route?: string;
    request_id?: string;
  }[];
  last_pass: {
    start: number;
    seconds: number;
    decodes: number;
    tokens: number;
    blocks_free: number;
    blocks_cached: number;
    blocks_referenced: number;
  } | null;
  totals: { cache_hit_rate: number; prompt_tokens: number; drawn_tokens: number };
  restarts: number;
  roofline?: EngineState["roofline"];
  block_tokens?: number;
}

const NUM_STEPS = 60;

/** Follows the engine: what one event does not say, the events before it do. */
export class EngineFollower {
  #steps: EngineStep[] = [];
  #lastStart: number | null = null;
  #lastDrawn: { at: number; tokens: number } | null = null;
  #rate: number | null = null;

  /**
   * @param at seconds, of any clock.
   * @param turnOf the answer that a stream's id belongs to, where it is one of this browser.
   */
  next(
    wire: WireEngine,
    at: number,
    turnOf: (streamId: string) => string | null = () => null,
  ): EngineState {
    this.#addStep(wire.last_pass);
    this.#count(wire.totals.drawn_tokens, at);
    const requests = wire.requests.map((request) => requestOf(request, turnOf));
    return {
      isLive: true,
      tokensPerSecond: this.#rate,
      running: requests.filter((request) => request.stage !== "waiting"),
      waiting: requests.filter((request) => request.stage === "waiting"),
      cachedShare: wire.totals.prompt_tokens > 0 ? wire.totals.cache_hit_rate : null,
      blocks: blocksOf(wire),
      steps: this.#steps,
      roofline: wire.roofline ?? null,
      restarts: wire.restarts,
    };
  }

  #addStep(pass: WireEngine["last_pass"]): void {
    if (!pass || pass.start === this.#lastStart) return;
    this.#lastStart = pass.start;
    const step: EngineStep = {
      seconds: pass.seconds,
      promptTokens: Math.max(0, pass.tokens - pass.decodes),
      decodeTokens: Math.min(pass.tokens, pass.decodes),
    };
    this.#steps = [...this.#steps, step].slice(-NUM_STEPS);
  }

  /** Tokens a second between two events; the engine that took another's place counts from 0. */
  #count(tokens: number, at: number): void {
    const last = this.#lastDrawn;
    if (last && at > last.at && tokens >= last.tokens) {
      this.#rate = (tokens - last.tokens) / (at - last.at);
    } else if (last) this.#rate = null;
    this.#lastDrawn = { at, tokens };
  }
}

function requestOf(
  wire: WireEngine["requests"][number],
  turnOf: (streamId: string) => string | null,
): EngineRequest {
  const stage = wire.stage === "decode" || wire.stage === "prefill" ? wire.stage : "waiting";
  const known = wire.computed_tokens ?? (stage === "decode" ? wire.prompt_tokens : 0);
  return {
    turn: wire.request_id === undefined ? null : turnOf(wire.request_id),
    route: wire.route ?? "",
    stage,
    promptTokens: wire.prompt_tokens,
    cachedTokens: wire.cached_tokens ?? 0,
    computedTokens: Math.min(known, wire.prompt_tokens),
    drawnTokens: wire.tokens,
    maxTokens: wire.max_tokens,
  };
}

function blocksOf(wire: WireEngine): EngineBlocks | null {
  const pass = wire.last_pass;
  if (!pass) return null;
  const { blocks_free: free, blocks_cached: cached, blocks_referenced: referenced } = pass;
  return {
    size: wire.block_tokens ?? 0,
    total: free + cached + referenced,
    free,
    cached,
    referenced,
    own: null,
  };
}
