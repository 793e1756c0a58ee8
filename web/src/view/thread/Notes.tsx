/** How an answer came to be, in the margin beside it: its strip, its figures, and its replay. */

import { memo } from "react";

import { Icon } from "../../icons";
import type { Turn } from "../../model";
import { actions, useSettings } from "../../state";
import { useWords } from "../../words";
import { useUiActions } from "../ui";
import { useFigures } from "./figures";
import { rate, seconds, UNKNOWN } from "./numbers";
import { Strip } from "./Strip";

export const Notes = memo(function Notes({ turn }: { turn: Turn }) {
  const words = useWords();
  const ui = useUiActions();
  const settings = useSettings();
  const figures = useFigures(turn);
  if (!settings.notes) return null;
  const { cached, prompt, written } = figures;
  const share =
    prompt === null
      ? UNKNOWN
      : `${cached === null ? UNKNOWN : words.count(cached)} / ${words.count(prompt)}`;
  return (
    <div className="note">
      <button
        type="button"
        className="stripbtn"
        aria-label={words.probabilities}
        title={words.probabilities}
        onClick={() => ui.setShaded((isShaded) => !isShaded)}
      >
        <Strip values={figures.strip} />
      </button>
      <dl>
        <dt>{words.written}</dt>
        <dd>{written === null ? UNKNOWN : words.count(written)}</dd>
        <dt>{words.speed}</dt>
        <dd>
          {rate(figures.rate)} {figures.rate !== null && words.tokensPerSecond}
        </dd>
        <dt>{words.firstToken}</dt>
        <dd>
          {seconds(figures.firstToken)} {figures.firstToken !== null && "s"}
        </dd>
        <dt>{words.cached}</dt>
        <dd>{share}</dd>
        <dt>{words.seed}</dt>
        <dd>{figures.seed ?? UNKNOWN}</dd>
      </dl>
      {turn.status !== "writing" && <ReplayLine turn={turn} />}
    </div>
  );
});

/** Replay; or what the last replay found. Where it differs, the branch that does is a press away. */
export function ReplayLine({ turn }: { turn: Turn }) {
  const words = useWords();
  if (turn.isEdited || turn.seed === null || !turn.stats?.tokens) return null;
  const replay = turn.replay;
  if (replay && !replay.same) {
    return (
      <button type="button" className="same no" onClick={() => actions.showTurn(replay.branch)}>
        <Icon name="x" />
        {words.differs(replay.at + 1)}
      </button>
    );
  }
  return (
    <button
      type="button"
      className={replay ? "same" : "same idle"}
      title={words.replay}
      onClick={() => actions.replay(turn.id)}
    >
      <Icon name={replay ? "check" : "redo"} />
      {replay ? words.same : words.replay}
    </button>
  );
}
