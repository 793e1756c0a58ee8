/** What ended an answer before its end, and the way on. */

import { Icon } from "../../icons";
import type { Turn } from "../../model";
import { actions } from "../../state";
import { useWords, type Words } from "../../words";

export function CutLine({ turn }: { turn: Turn }) {
  const words = useWords();
  if (turn.status !== "cut" || turn.failure) return null;
  return (
    <p className="cutline">
      {reason(turn, words)}
      <button type="button" className="btn sm line" onClick={() => actions.continueAnswer(turn.id)}>
        <Icon name="take" />
        {words.continue}
      </button>
    </p>
  );
}

function reason(turn: Turn, words: Words): string {
  if (turn.finishReason === "length") {
    const limit = turn.sampling?.max_tokens;
    return limit === undefined ? words.cutByLength : words.cutByLimit(limit);
  }
  return turn.finishReason === "stopped" ? words.cutByStop : words.cutByLoss;
}
