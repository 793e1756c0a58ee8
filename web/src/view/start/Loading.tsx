/** The start page while the model is loaded: how many of its weights are read. */

import { Mark } from "../../icons";
import type { ServerState } from "../../model";
import { useWords } from "../../words";
import { modelName } from "../frame/modelName";

const MILLION = 1e6;

export function Loading({ state }: { state: Extract<ServerState, { kind: "loading" }> }) {
  const words = useWords();
  const { progress, reason } = state;
  const said = progress
    ? words.loadingWeights(
        modelName(progress.model),
        Math.floor(progress.done / MILLION),
        Math.ceil(progress.total / MILLION),
      )
    : words.loadingModel;
  return (
    <div className="scroll">
      <div className="turn empty">
        <div className="in">
          <Mark className="mk" />
          <h2>{words.hello}</h2>
          {progress ? (
            <div
              className="reading"
              role="progressbar"
              aria-valuenow={progress.done}
              aria-valuemin={0}
              aria-valuemax={progress.total}
              aria-label={said}
            >
              <span>{said}</span>
              <span className="track">
                <i style={{ width: `${(progress.done / progress.total) * 100}%` }} />
              </span>
            </div>
          ) : (
            <p className="reading">
              {said}
              {reason && ` · ${reason}`}
            </p>
          )}
        </div>
      </div>
    </div>
  );
}
