/** Reads what the server says of itself: /health and /props. */

import type { Sampling, ServerProps } from "../model/types";

export interface WireHealth {
  status: string;
  reason: string | null;
  /** Bytes of the model, while it is loading. */
  progress?: { done: number; total: number } | null;
}

const SAMPLING_NAMES = [
  "temperature",
  "top_p",
  "top_k",
  "min_p",
  "repetition_penalty",
  "presence_penalty",
  "frequency_penalty",
  "speculation",
] as const;

export function propsOf(wire: Record<string, unknown>): ServerProps {
  const defaults: Sampling = {};
  const given = (wire.default_params ?? {}) as Record<string, unknown>;
  for (const name of SAMPLING_NAMES) {
    const value = given[name];
    if (typeof value === "number") defaults[name] = value;
  }
  return {
    model: text(wire.model),
    description: text(wire.description),
    contextLength: number(wire.context_length) ?? 0,
    cacheTokens: number(wire.cache_tokens),
    defaults,
    hasChatTemplate: wire.has_chat_template !== false,
    restarts: number(wire.engine_restarts) ?? 0,
    hasLayers: wire.has_layers === true,
  };
}

function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}

function number(value: unknown): number | null {
  return typeof value === "number" ? value : null;
}
