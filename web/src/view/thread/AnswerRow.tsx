/** The row below an answer: versions, actions, and its figures where the margin has no room. */

import { memo } from "react";

import type { Place, Turn } from "../../model";
import { actions } from "../../state";
import { useWords } from "../../words";
import { IconButton } from "../parts/buttons";
import { CopyButton } from "../parts/CopyButton";
import { useUiActions } from "../ui";
import { BranchSwitch } from "./BranchSwitch";
import { useFigures } from "./figures";
import { rate } from "./numbers";

export const AnswerRow = memo(function AnswerRow({ place }: { place: Place }) {
  const words = useWords();
  const ui = useUiActions();
  const { turn } = place;
  const fork = async () => {
    const chat = await actions.branchIntoChat(turn.id);
    if (chat) ui.openChat(chat);
  };
  return (
    <div className="foot">
      <BranchSwitch place={place} />
      {turn.status !== "writing" && (
        <span className="acts">
          <CopyButton text={() => turn.text} />
          <IconButton
            icon="edit"
            label={words.edit}
            className="sm"
            onClick={() => ui.setEditing(turn.id)}
          />
          <IconButton
            icon="redo"
            label={words.regenerate}
            className="sm"
            onClick={() => actions.regenerate(turn.id)}
          />
          <IconButton icon="fork" label={words.fork} className="sm hidephone" onClick={fork} />
          <IconButton
            icon="dots"
            label={words.more}
            className="sm"
            aria-haspopup="menu"
            onClick={(event) =>
              ui.setMenu({
                kind: "turn",
                id: turn.id,
                anchor: event.currentTarget.getBoundingClientRect(),
              })
            }
          />
        </span>
      )}
      <Stat turn={turn} />
    </div>
  );
});

function Stat({ turn }: { turn: Turn }) {
  const words = useWords();
  const figures = useFigures(turn);
  const { written, seed } = figures;
  if (!written) return null;
  return (
    <span className="stat">
      <span className="hidephone">
        {words.count(written)} {words.tokens} ·{" "}
      </span>
      {rate(figures.rate)} {words.tokensPerSecond}
      {seed !== null && <span className="hidephone"> · {words.seedShort(seed)}</span>}
    </span>
  );
}
