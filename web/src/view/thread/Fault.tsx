/** Why an answer failed: what happened, what is kept, one way on; in the turn it belongs to. */

import { Icon } from "../../icons";
import type { Failure, Turn } from "../../model";
import { actions } from "../../state";
import { useWords, type Words } from "../../words";
import { useUiActions } from "../ui";

export function Fault({ turn, failure }: { turn: Turn; failure: Failure }) {
  const words = useWords();
  const ui = useUiActions();
  const { what, kept } = explain(failure, words);
  const refused = failure.kind === "refused" ? refusedPart(turn) : null;
  const canContinue = turn.text !== "" || turn.reasoning !== "";
  return (
    <div className="fault" role="alert">
      <Icon name="warn" />
      <div>
        <p dir="auto">{what}</p>
        {kept && <p>{kept}</p>}
      </div>
      {failure.kind === "key" ? (
        <button type="button" className="btn line" onClick={() => ui.setOverlay("settings")}>
          {words.enterKey}
        </button>
      ) : refused ? (
        <button type="button" className="btn line" onClick={() => ui.setDrawer(refused)}>
          {words[refused]}
        </button>
      ) : (
        <button
          type="button"
          className="btn line"
          onClick={() =>
            canContinue ? actions.continueAnswer(turn.id) : actions.regenerate(turn.id)
          }
        >
          {canContinue ? words.continue : words.retry}
        </button>
      )}
    </div>
  );
}

/** What of its question the server may have refused, which is to be changed before another try. */
function refusedPart({ asked }: Turn): "tools" | "schema" | null {
  if (asked?.tools.length && asked.toolChoice !== "none") return "tools";
  return asked?.schema ? "schema" : null;
}

function explain(failure: Failure, words: Words): { what: string; kept: string } {
  switch (failure.kind) {
    case "engine":
      return {
        what: words.engineStopped(failure.message.replace(/^the engine process \w+ \w+: /, "")),
        kept: words.engineStartedAgain,
      };
    case "context":
      return { what: words.fullLimit, kept: failure.message };
    case "key":
      return { what: words.keyNeeded, kept: failure.message };
    default:
      return { what: failure.message || words.failed, kept: words.keptText };
  }
}
