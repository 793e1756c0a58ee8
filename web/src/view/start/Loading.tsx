/** The start page while the model is loaded: how many of its bytes are read. */

import { Mark } from "../../icons";
import type { ServerState } from "../../model";
import { useWords } from "../../words";

const GB = 1e9;

export function Loading({ state }: { state: Extract<ServerState, { kind: "loading" }> }) {
  const words = useWords();
  const { done, total } = state;
  const isKnown = done !== null && total !== null && total > 0;
  const said = isKnown
    ? words.loadingBytes((done / GB).toFixed(1), (total / GB).toFixed(1))
    : words.loadingModel;
  return (
    <div className="scroll">
      <div className="turn empty">
        <div className="in">
          <Mark className="mk" />
          <h2>{words.hello}</h2>
          {isKnown ? (
            <div
              className="reading"
              role="progressbar"
              aria-valuenow={done}
              aria-valuemin={0}
              aria-valuemax={total}
              aria-label={said}
            >
              <span>{said}</span>
              <span className="track">
                <i style={{ width: `${(done / total) * 100}%` }} />
              </span>
            </div>
          ) : (
            <p className="reading">
              {said}
              {state.reason && ` · ${state.reason}`}
            </p>
          )}
        </div>
      </div>
    </div>
  );
}
