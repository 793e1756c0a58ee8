/** Reads what the server says of itself: /health and /props. */

import type { Sampling, ServerProps } from "../model/types";

export interface WireHealth {
  status: string;
  reason: string | null;
  /** How many weights were read, while the model is loading. */
  progress?: { model: string; done: number; total: number } | null;
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

/** The device's part of a description: what comes behind the model and its format. */
function deviceOf(description: string, model: string): string {
  const parts = description.split(" · ");
  return (parts[0] === model ? parts.slice(1) : parts).join(" · ");
}

export function propsOf(wire: Record<string, unknown>): ServerProps {
  const defaults: Sampling = {};
  const given = (wire.default_params ?? {}) as Record<string, unknown>;
  for (const name of SAMPLING_NAMES) {
    const value = given[name];
    if (typeof value === "number") defaults[name] = value;
  }
  return {
    model: text(wire.model),
    description: deviceOf(text(wire.description), text(wire.model)),
    contextLength: number(wire.context_length) ?? 0,
    cacheTokens: number(wire.cache_tokens),
    vocabulary: number(wire.vocab_size),
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
