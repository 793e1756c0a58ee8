/** How sure the model was of a token, as a class: height of its bar, and tint. */

import type { Shade } from "../../render/types";

export function shadeOf(logprob: number): Shade {
  const probability = Math.exp(logprob);
  if (probability >= 0.9) return "";
  if (probability >= 0.5) return "p1";
  return probability >= 0.2 ? "p2" : "p3";
}
