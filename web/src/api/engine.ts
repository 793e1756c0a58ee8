/** Reads the events of /engine into what the engine's view shows. */

import type {
  EngineBlocks,
  EngineRequest,
  EngineState,
  EngineStep,
  RooflinePoint,
} from "../model/types";

interface WireRequest {
  id: number;
  kind?: string;
  stage: string;
  prompt_tokens: number;
  prefilled_tokens?: number;
  cached_tokens?: number;
  tokens: number;
  max_tokens: number | null;
  blocks?: number;
}

interface WireRate {
  operations_per_second: number | null;
  operations_per_byte: number | null;
  share_of_read: number | null;
  share_of_products: number | null;
}

export interface WireEngine {
  status: { state: string; reason: string | null };
  requests: WireRequest[];
  blocks: {
    size: number;
    count: number;
    free: number;
    cached: number;
    referenced: number;
  } | null;
  passes: { seconds: number; decode_tokens: number; prefill_tokens: number }[];
  roofline: {
    decode: WireRate | null;
    prefill: WireRate | null;
    /** What the machine reads and multiplies, bytes and operations a second; null: not measured. */
    read_rate: number | null;
    product_rate: number | null;
  } | null;
  totals: { cache_hit_rate: number; prompt_tokens: number; drawn_tokens: number };
  restarts: number;
}

const NUM_STEPS = 60;

/** Follows the engine: what one event does not say, the events before it do. */
export class EngineFollower {
  #steps: EngineStep[] = [];
  #lastDrawn: { at: number; tokens: number } | null = null;
  #rate: number | null = null;

  /**
   * @param at seconds, of any clock.
   * @param ownerOf the answer that a request writes, where it is one of this page.
   */
  next(wire: WireEngine, at: number, ownerOf: OwnerOf = () => null): EngineState {
    const steps = wire.passes.map((pass) => ({
      seconds: pass.seconds,
      promptTokens: pass.prefill_tokens,
      decodeTokens: pass.decode_tokens,
    }));
    if (steps.length) this.#steps = [...this.#steps, ...steps].slice(-NUM_STEPS);
    this.#count(wire.totals.drawn_tokens, at);
    const requests = wire.requests.map((request) => requestOf(request, ownerOf));
    const own = wire.requests.filter(({ id }) => ownerOf(id) !== null);
    return {
      isLive: true,
      tokensPerSecond: this.#rate,
      running: requests.filter((request) => request.stage !== "waiting"),
      waiting: requests.filter((request) => request.stage === "waiting"),
      cachedShare: wire.totals.prompt_tokens > 0 ? wire.totals.cache_hit_rate : null,
      blocks: blocksOf(wire, own),
      steps: this.#steps,
      roofline: rooflineOf(wire),
      restarts: wire.restarts,
    };
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

const ROUTES: Record<string, string> = {
  chat: "/v1/chat/completions",
  completion: "/v1/completions",
  response: "/v1/responses",
};

type OwnerOf = (request: number) => { turn: string; chat: string } | null;

function requestOf(wire: WireRequest, ownerOf: OwnerOf): EngineRequest {
  const owner = ownerOf(wire.id);
  const stage = wire.stage === "decode" || wire.stage === "prefill" ? wire.stage : "waiting";
  return {
    turn: owner?.turn ?? null,
    chat: owner?.chat ?? null,
    route: ROUTES[wire.kind ?? ""] ?? wire.kind ?? "",
    stage,
    promptTokens: wire.prompt_tokens,
    cachedTokens: wire.cached_tokens ?? 0,
    computedTokens: Math.min(wire.prefilled_tokens ?? 0, wire.prompt_tokens),
    drawnTokens: wire.tokens,
    maxTokens: wire.max_tokens,
  };
}

function blocksOf({ blocks }: WireEngine, own: WireRequest[]): EngineBlocks | null {
  if (!blocks) return null;
  const { size, count: total, free, cached, referenced } = blocks;
  const ownBlocks = own.reduce((sum, request) => sum + (request.blocks ?? 0), 0);
  return { size, total, free, cached, referenced, own: Math.min(ownBlocks, referenced) };
}

function rooflineOf({ roofline }: WireEngine): EngineState["roofline"] {
  const { read_rate: bandwidth = null, product_rate: compute = null } = roofline ?? {};
  if (bandwidth === null || compute === null) return null;
  const points: RooflinePoint[] = [];
  for (const kind of ["decode", "prefill"] as const) {
    const rate = roofline?.[kind];
    const share = kind === "decode" ? rate?.share_of_read : rate?.share_of_products;
    const { operations_per_byte: intensity, operations_per_second: flops } = rate ?? {};
    if (intensity == null || flops == null || share == null) continue;
    points.push({ kind, intensity, flops, share });
  }
  return { bandwidth, compute, points };
}
