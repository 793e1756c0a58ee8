/**
 * Packs the tokens of an answer: about 100 bytes each with eight choices, where objects take 600.
 *
 * Every text stands once, in a table; tokens and choices are places in it.
 */

import type { Choice, TokenRecord } from "../model/types";

export interface PackedTokens {
  texts: string[];
  /** Of each text; -1: not known. */
  ids: number[];
  /** Of each token, its place in the table, and how many choices it has. */
  places: number[];
  logprobs: number[];
  counts: number[];
  /** Of all choices, one token after the other. */
  topPlaces: number[];
  topLogprobs: number[];
}

export function pack(tokens: readonly TokenRecord[]): PackedTokens {
  const packed: PackedTokens = {
    texts: [],
    ids: [],
    places: [],
    logprobs: [],
    counts: [],
    topPlaces: [],
    topLogprobs: [],
  };
  const known = new Map<string, number>();
  const placeOf = ({ id, text }: Choice): number => {
    const name = `${id} ${text}`;
    let place = known.get(name);
    if (place === undefined) {
      place = packed.texts.push(text) - 1;
      packed.ids.push(id ?? -1);
      known.set(name, place);
    }
    return place;
  };
  for (const token of tokens) {
    packed.places.push(placeOf(token));
    packed.logprobs.push(rounded(token.logprob));
    packed.counts.push(token.top.length);
    for (const choice of token.top) {
      packed.topPlaces.push(placeOf(choice));
      packed.topLogprobs.push(rounded(choice.logprob));
    }
  }
  return packed;
}

export function unpack(packed: PackedTokens): TokenRecord[] {
  let next = 0;
  const choice = (place: number, logprob: number): Choice => {
    const id = packed.ids[place] ?? -1;
    return { id: id < 0 ? null : id, text: packed.texts[place] ?? "", logprob };
  };
  return packed.places.map((place, k) => {
    const top: Choice[] = [];
    for (const end = next + (packed.counts[k] ?? 0); next < end; next++) {
      top.push(choice(packed.topPlaces[next] ?? -1, packed.topLogprobs[next] ?? -Infinity));
    }
    return { ...choice(place, packed.logprobs[k] ?? -Infinity), top };
  });
}

/** To what float32 can tell apart near 1. JSON has no infinity: the least logprob stands for it. */
function rounded(logprob: number): number {
  return Number.isFinite(logprob) ? Math.round(logprob * 1e5) / 1e5 : -1e4;
}

export function isPacked(value: unknown): value is PackedTokens {
  const packed = value as Partial<Record<keyof PackedTokens, unknown>> | null;
  if (typeof packed !== "object" || packed === null) return false;
  const numbers = ["ids", "places", "logprobs", "counts", "topPlaces", "topLogprobs"] as const;
  return (
    Array.isArray(packed.texts) &&
    packed.texts.every((text) => typeof text === "string") &&
    numbers.every((name) => {
      const values = packed[name];
      return Array.isArray(values) && values.every((each) => typeof each === "number");
    })
  );
}
