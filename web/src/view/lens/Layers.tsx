/** What each layer would have said in place of a token, and what the model looked at for it. */

import { useEffect, useState } from "react";

import type { TokenLayers, Turn } from "../../model";
import { actions } from "../../state";
import { useWords } from "../../words";
import { percent } from "../thread/numbers";
import { Visible } from "./Visible";

const ROWS = 8;
const SOURCES = 3;

export function Layers({ turn, at }: { turn: Turn; at: number }) {
  const words = useWords();
  const layers = useLayers(turn, at);
  if (layers && "error" in layers) {
    return <p className="verdict bad">{layers.error || words.layersUnknown}</p>;
  }
  const states = layers?.states ?? [];
  // The last one, and others at equal distances before it; the embedding's says nothing yet.
  const apart = Math.max(1, Math.ceil((states.length - 1) / ROWS));
  const shown = states.filter(
    ({ layer }) => layer !== null && (states.length - 1 - layer) % apart === 0,
  );
  const sources = layers?.sources.filter(({ isFirst }) => !isFirst).slice(0, SOURCES) ?? [];
  const first = layers?.sources.find(({ isFirst }) => isFirst);
  return (
    <div aria-busy={!layers}>
      <p className="cap">{words.layerNote}</p>
      <ol className="lens" style={{ minHeight: ROWS * 24 }}>
        {shown.toReversed().map(({ layer, likeliest, rank, probability }) => (
          <li
            key={layer}
            className={rank === 1 ? "same" : undefined}
            title={words.writtenThere(rank, percent(probability))}
          >
            <span>{layer}</span>
            <span className="w">
              <Visible text={likeliest.text} />
            </span>
            <span className="track">
              <i style={{ width: `${likeliest.probability * 100}%` }} />
            </span>
            <span className="pc">{percent(likeliest.probability, 0)}</span>
          </li>
        ))}
      </ol>
      <p className="cap look">
        {layers ? words.lookedAt : words.layersComing}{" "}
        {sources.map(({ text, weight }, k) => (
          <span key={k}>
            {k > 0 && " · "}
            <b>
              <Visible text={text} />
            </b>{" "}
            {percent(weight, 0)}
          </span>
        ))}
        {first && ` · ${words.firstOfAll} ${percent(first.weight, 0)}`}
      </p>
    </div>
  );
}

/** null until they have come; asked for no longer once the view is closed. */
function useLayers(turn: Turn, at: number): TokenLayers | { error: string } | null {
  const [layers, setLayers] = useState<TokenLayers | { error: string } | null>(null);
  useEffect(() => {
    const stop = new AbortController();
    void actions.loadLayers(turn.id, at, stop.signal).then((loaded) => {
      if (!stop.signal.aborted) setLayers(loaded);
    });
    return () => stop.abort();
  }, [turn.id, at]);
  return layers;
}
