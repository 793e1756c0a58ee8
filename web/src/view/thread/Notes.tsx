/** How an answer came to be, in the margin beside it: its strip, its figures, and its replay. */

import { memo } from "react";

import type { Turn } from "../../model";
import { useSettings } from "../../state";
import { useWords } from "../../words";
import { useUiActions } from "../ui";
import { useFigures } from "./figures";
import { rate, seconds, UNKNOWN } from "./numbers";
import { ReplayLine } from "./ReplayLine";
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
