/** The figures of an answer: of its stream while it is written, then of what was stored. */

import type { LiveTurn, Turn } from "../../model";
import { useStream } from "../../state";

export interface Figures {
  written: number | null;
  rate: number | null;
  firstToken: number | null;
  cached: number | null;
  prompt: number | null;
  seed: number | null;
  strip: readonly number[];
}

/** Figures that change with every paint of a stream: for the parts that show them, and no other. */
export function useFigures(turn: Turn): Figures {
  return figuresOf(turn, useStream(turn.id));
}

function figuresOf(turn: Turn, live: LiveTurn | null): Figures {
  if (live) {
    return {
      written: live.tokens,
      rate: live.rate,
      firstToken: live.firstToken,
      cached: live.progress?.cached ?? null,
      prompt: live.progress?.total ?? null,
      seed: live.seed,
      strip: live.strip,
    };
  }
  return {
    written: turn.stats?.tokens ?? null,
    rate: turn.stats?.rate ?? null,
    firstToken: turn.stats?.firstToken ?? null,
    cached: turn.stats?.cachedTokens ?? null,
    prompt: turn.stats?.promptTokens ?? null,
    seed: turn.seed,
    strip: turn.strip,
  };
}
