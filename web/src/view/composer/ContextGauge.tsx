/** How much of the context the next prompt fills; copper from 90 per cent on. */

import { useProps } from "../../state";
import { useWords } from "../../words";
import { UNKNOWN } from "../thread/numbers";

const NEARLY_FULL = 0.9;

export function ContextGauge({ used, isFull }: { used: number | null; isFull: boolean }) {
  const words = useWords();
  const all = useProps()?.contextLength ?? null;
  const share = all && used !== null ? Math.min(1, used / all) : 0;
  const counts = [used, all].map((count) => (count === null ? UNKNOWN : words.count(count)));
  return (
    <span
      className={isFull || share >= NEARLY_FULL ? "ctx full" : "ctx"}
      title={words.contextGauge(counts[0]!, counts[1]!)}
    >
      {counts[0]} / {counts[1]}
      <span className="track">
        <i style={{ width: `${share * 100}%` }} />
      </span>
    </span>
  );
}
