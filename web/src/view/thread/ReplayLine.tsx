/** Replay; how far one is that runs; or what the last one found. */

import { Icon } from "../../icons";
import type { Turn } from "../../model";
import { actions, useReplay } from "../../state";
import { useWords } from "../../words";

/** Where the replay differs, the branch that does is a press away. */
export function ReplayLine({ turn }: { turn: Turn }) {
  const words = useWords();
  const running = useReplay(turn.id);
  if (turn.isEdited || turn.seed === null || !turn.stats?.tokens) return null;
  const replay = turn.replay;
  if (running) {
    return (
      <button
        type="button"
        className="same idle"
        title={words.stop}
        onClick={() => actions.replay(turn.id)}
      >
        <Icon name="x" />
        {words.replaying(running.done, running.total)}
      </button>
    );
  }
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

/** The same below the answer, where the margin has no room for notes: once there is something to say. */
export function ReplayBelow({ turn }: { turn: Turn }) {
  const running = useReplay(turn.id);
  if (!running && !turn.replay) return null;
  return (
    <p className="replayed">
      <ReplayLine turn={turn} />
    </p>
  );
}
