/** Built-in presets: manners of sampling. */

import type { Preset, Sampling } from "./types";

/**
 * What new chats begin with. Set by the page, since most models recommend nothing, and sampling then
 * starts from temperature 1, at which small ones soon lose the thread.
 */
export const BALANCED: Sampling = { temperature: 0.7, top_p: 0.95, min_p: 0.05 };

export const BUILT_IN: readonly Preset[] = [
  { id: "precise", name: "Precise", sampling: { temperature: 0 }, isOwn: false },
  { id: "balanced", name: "Balanced", sampling: BALANCED, isOwn: false },
  {
    id: "free",
    name: "Free",
    sampling: { temperature: 1, top_p: 1, top_k: 0, min_p: 0.02 },
    isOwn: false,
  },
];

/** The seed is of an answer, not of a manner. */
export function withoutSeed({ seed: _, ...sampling }: Sampling): Sampling {
  return sampling;
}
