/** The tokens of an answer while it is shaded. */

import { useEffect, useState } from "react";

import type { TokenRecord, Turn } from "../../model";
import { actions } from "../../state";

export interface Shades {
  /** null: not shaded, or not loaded yet. */
  tokens: readonly TokenRecord[] | null;
  /** Asked for, but this answer was kept without probabilities. */
  isMissing: boolean;
}

export function useShades(turn: Turn, isOn: boolean): Shades {
  const [tokens, setTokens] = useState<readonly TokenRecord[] | null>();
  // biome-ignore lint/correctness/useExhaustiveDependencies: again when they were stored anew
  useEffect(() => {
    if (!isOn) return;
    let isStale = false;
    void actions.loadTokens(turn.id).then((loaded) => {
      if (!isStale) setTokens(loaded);
    });
    return () => {
      isStale = true;
    };
  }, [isOn, turn.id, turn.hasTokens, turn.version]);
  const isMissing = isOn && tokens !== undefined && !tokens?.length;
  return { tokens: isOn && tokens?.length ? tokens : null, isMissing };
}
