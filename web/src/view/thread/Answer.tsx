/** An answer: what it says; what ended it; its action row and its notes. */

import { memo } from "react";

import { useWords } from "../../words";
import { AnswerRow } from "./AnswerRow";
import { CutLine } from "./CutLine";
import { Fault } from "./Fault";
import { Notes } from "./Notes";
import { ReplayBelow } from "./ReplayLine";
import { type Manner, Written, type WrittenProps } from "./Written";

type AnswerProps = Omit<WrittenProps, "manner"> & Manner & { isLast: boolean };

export const Answer = memo(function Answer(props: AnswerProps) {
  const { place, isLast, schema, results, ...manner } = props;
  const words = useWords();
  const { turn } = place;
  return (
    <article
      className={isLast ? "turn answer last" : "turn answer"}
      data-turn={turn.id}
      tabIndex={-1}
      aria-busy={turn.status === "writing"}
      aria-label={words.answer}
    >
      <div className="body">
        <Written place={place} schema={schema} results={results} manner={manner} />
        <CutLine turn={turn} />
        {turn.failure && <Fault turn={turn} failure={turn.failure} />}
        <ReplayBelow turn={turn} />
        <AnswerRow place={place} />
      </div>
      <Notes turn={turn} />
    </article>
  );
});
