/** A question: plain text as it was typed; edited, a field in its place. */

import { memo, useState } from "react";

import { Icon } from "../../icons";
import type { Place } from "../../model";
import { actions } from "../../state";
import { useWords } from "../../words";
import { IconButton } from "../parts/buttons";
import { CopyButton } from "../parts/CopyButton";
import { useUiActions } from "../ui";
import { BranchSwitch } from "./BranchSwitch";
import { EditField } from "./EditField";

export const Question = memo(function Question({
  place,
  isEditing,
  isOpen,
}: {
  place: Place;
  isEditing: boolean;
  /** Whether the branch ends here: its answers were deleted. */
  isOpen: boolean;
}) {
  const words = useWords();
  const ui = useUiActions();
  const [isTapped, setTapped] = useState(false);
  const { turn } = place;
  return (
    <article className="turn question" data-turn={turn.id} tabIndex={-1}>
      {isEditing ? (
        <EditField
          text={turn.text}
          count={place.count}
          label={words.saveBranch}
          save={(text) => actions.editQuestion(turn.id, text)}
        />
      ) : (
        <div className={isTapped ? "qrow tapped" : "qrow"}>
          {/* biome-ignore lint/a11y/useKeyWithClickEvents: for touch alone; by keys, the row is reached by Tab */}
          {/* biome-ignore lint/a11y/noStaticElementInteractions: as above */}
          <div className="q" dir="auto" onClick={() => setTapped(!isTapped)}>
            {turn.text}
          </div>
          <span className="acts">
            <BranchSwitch place={place} />
            <IconButton
              icon="edit"
              label={words.edit}
              className="sm"
              onClick={() => ui.setEditing(turn.id)}
            />
            <CopyButton text={() => turn.text} />
          </span>
        </div>
      )}
      {isOpen && (
        <p className="cutline">
          <button type="button" className="btn sm line" onClick={() => actions.regenerate(turn.id)}>
            <Icon name="take" />
            {words.answerThis}
          </button>
        </p>
      )}
    </article>
  );
});
