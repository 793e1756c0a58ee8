/** ‹ 2/3 ›: steps through the versions of a turn, where there are several. */

import type { Place } from "../../model";
import { actions } from "../../state";
import { useWords } from "../../words";
import { IconButton } from "../parts/buttons";

export function BranchSwitch({ place }: { place: Place }) {
  const words = useWords();
  const { turn, index, count } = place;
  if (count < 2) return null;
  return (
    <span className="branch" role="group" aria-label={words.version(index + 1, count)}>
      <IconButton
        icon="left"
        label={words.older}
        className="sm"
        disabled={index === 0}
        onClick={() => actions.stepBranch(turn.id, -1)}
      />
      {index + 1}/{count}
      <IconButton
        icon="right"
        label={words.newer}
        className="sm"
        disabled={index === count - 1}
        onClick={() => actions.stepBranch(turn.id, 1)}
      />
    </span>
  );
}
