/** In an answer's place before its first token: how much of the prompt was read, and the time left. */

import type { LiveTurn } from "../../model";
import { useWords } from "../../words";

export function Reading({ live }: { live: LiveTurn | null }) {
  const words = useWords();
  const progress = live?.progress ?? null;
  if (live?.phase === "queued") return <p className="reading">{words.queued}</p>;
  if (!progress) return <p className="reading">{words.readingUnknown}</p>;
  const said = words.reading(progress.done, progress.total);
  return (
    <div
      className="reading"
      role="progressbar"
      aria-valuenow={progress.done}
      aria-valuemin={0}
      aria-valuemax={progress.total}
      aria-label={said}
    >
      <span>
        {said}
        {progress.seconds !== null && ` · ${words.aboutSeconds(Math.ceil(progress.seconds))}`}
      </span>
      <span className="track">
        <i style={{ width: `${(progress.done / Math.max(1, progress.total)) * 100}%` }} />
      </span>
    </div>
  );
}
