/**
 * What sampling settings leave of the model's choices: temperature, then top-k, top-p, min-p, in
 * the order of the server's sampler.
 *
 * Only the likeliest choices are known. The others are taken as one rest, each of them at most as
 * likely as the last known one: exact at temperature 1, close to it elsewhere.
 */

import type { Choice, Sampling } from "../../model";

export type Rule = "greedy" | "top_k" | "top_p" | "min_p";

export interface Share {
  choice: Choice;
  /** The model's own probability. */
  own: number;
  /** What the settings make of it; 0 where a rule excludes it. */
  left: number;
  excludedBy: Rule | null;
}

/** Return the choices, likeliest first, with what is left of each. */
export function distribution(choices: readonly Choice[], sampling: Sampling): Share[] {
  const sorted = choices.toSorted((a, b) => b.logprob - a.logprob);
  const own = sorted.map((choice) => Math.exp(choice.logprob));
  const rules = excluded(own, sampling);
  const temperature = sampling.temperature ?? 1;
  const weights = own.map((p, at) => {
    if (rules[at]) return 0;
    return temperature === 0 ? 1 : p ** (1 / temperature);
  });
  const isCut = rules.includes("top_k") || rules.includes("top_p") || rules.includes("min_p");
  const rest = isCut || temperature === 0 ? 0 : restWeight(own, temperature);
  const sum = weights.reduce((total, weight) => total + weight, rest) || 1;
  return sorted.map((choice, at) => ({
    choice,
    own: own[at]!,
    left: weights[at]! / sum,
    excludedBy: rules[at]!,
  }));
}

/** The weight of all choices that are not known, after temperature. */
function restWeight(own: readonly number[], temperature: number): number {
  const rest = Math.max(0, 1 - own.reduce((total, p) => total + p, 0));
  const last = own.at(-1) ?? 0;
  return last > 0 ? rest * last ** (1 / temperature - 1) : 0;
}

function excluded(own: readonly number[], sampling: Sampling): (Rule | null)[] {
  const temperature = sampling.temperature ?? 1;
  if (temperature === 0) return own.map((_, at) => (at === 0 ? null : "greedy"));
  const raw = own.map((p) => p ** (1 / temperature));
  const all = raw.reduce((total, weight) => total + weight, restWeight(own, temperature)) || 1;
  const probs = raw.map((weight) => weight / all);
  const k = sampling.top_k || Number.POSITIVE_INFINITY;
  const known = probs.slice(0, k).reduce((total, p) => total + p, 0);
  const kept = k <= own.length ? known : 1; // top-p is a share of what top-k has left
  const least = (sampling.min_p ?? 0) * (probs[0] ?? 0);
  let before = 0;
  return probs.map((p, at) => {
    const reached = before;
    before += p;
    if (at >= k) return "top_k";
    if (at > 0 && reached >= (sampling.top_p ?? 1) * kept) return "top_p";
    return p < least ? "min_p" : null;
  });
}

/** The entropy in bits: of all choices where all are known, else at least so many. */
export function entropy(choices: readonly Choice[]): { bits: number; isExact: boolean } {
  const own = choices.map((choice) => Math.exp(choice.logprob));
  const rest = 1 - own.reduce((total, p) => total + p, 0);
  const parts = rest > 1e-9 ? [...own, rest] : own;
  const bits = parts.reduce((sum, p) => (p > 0 ? sum - p * Math.log2(p) : sum), 0);
  return { bits, isExact: rest < 1e-3 };
}
