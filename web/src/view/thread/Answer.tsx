/** An answer: reasoning, text, tool calls; what ended it; its action row and its notes. */

import { memo } from "react";

import type { Place, Turn } from "../../model";
import { actions, useStream } from "../../state";
import { useWords } from "../../words";
import { useShades } from "../lens/useShades";
import { later } from "../parts/later";
import { useUi } from "../ui";
import { AnswerRow } from "./AnswerRow";
import { CutLine } from "./CutLine";
import { EditField } from "./EditField";
import { Fault } from "./Fault";
import { figuresOf } from "./figures";
import { Notes } from "./Notes";
import { Reading } from "./Reading";
import { Reasoning } from "./Reasoning";

// Markdown is a third of what the first paint may load: a new chat does without it.
const Blocks = later(
  () => import("./Blocks"),
  ({ text }: { text: string }) => <div className="prose plaintext">{text}</div>,
);
const Inspection = later(() => import("../lens/Inspection"));
const JsonAnswer = later(() => import("./JsonAnswer"));
const ToolCallView = later(() => import("./ToolCallView"));

export interface AnswerProps {
  place: Place;
  isLast: boolean;
  /** The chat's JSON schema, as text. */
  schema: string | null;
  /** What tools gave, by the call's id. */
  results: ReadonlyMap<string, Turn>;
}

export const Answer = memo(function Answer({ place, isLast, schema, results }: AnswerProps) {
  const words = useWords();
  const ui = useUi();
  const { turn } = place;
  const live = useStream(turn.id);
  const isWriting = turn.status === "writing";
  const text = live?.text ?? turn.text;
  const reasoning = live?.reasoning ?? turn.reasoning;
  const calls = live?.toolCalls ?? turn.toolCalls;
  const hasBegun = text !== "" || reasoning !== "" || calls.length > 0;
  const figures = figuresOf(turn, live);
  const isRaw = ui.raw.has(turn.id);
  const shades = useShades(turn, ui.isShaded && !isWriting && !isRaw);

  return (
    <article
      className={isLast ? "turn answer last" : "turn answer"}
      data-turn={turn.id}
      tabIndex={-1}
      aria-busy={isWriting}
      aria-label={words.answer}
    >
      <div className="body">
        <Reasoning turn={turn} text={reasoning} live={live} />
        {ui.editing === turn.id ? (
          <EditField
            text={turn.text}
            count={place.count}
            label={words.saveAnswer}
            save={(typed) => actions.editAnswer(turn.id, typed)}
          />
        ) : !hasBegun && isWriting ? (
          <Reading live={live} />
        ) : isRaw ? (
          <pre className="raw" tabIndex={0} dir="auto">
            {text}
          </pre>
        ) : schema !== null && /^\s*[[{]/.test(text) ? (
          <JsonAnswer text={text} schema={schema} isWriting={isWriting} />
        ) : (
          <Blocks text={text} tokens={shades.tokens} isWriting={isWriting} />
        )}
        {ui.inspected === turn.id && <Inspection turn={turn} />}
        {shades.isMissing && (
          <p className="cutline">
            {words.noLogprobs}
            {turn.seed !== null && !turn.isEdited && (
              <button type="button" className="btn sm line" onClick={() => actions.replay(turn.id)}>
                {words.noLogprobsReplay}
              </button>
            )}
          </p>
        )}
        {calls.map((call) => (
          <ToolCallView
            key={call.id}
            turn={turn}
            call={call}
            isWriting={isWriting}
            result={results.get(call.id) ?? null}
          />
        ))}
        {live?.isReconnecting && <p className="cutline">{words.reconnecting}</p>}
        <CutLine turn={turn} />
        {turn.failure && <Fault turn={turn} failure={turn.failure} />}
        <AnswerRow place={place} figures={figures} isWriting={isWriting} />
      </div>
      <Notes turn={turn} figures={figures} isWriting={isWriting} />
    </article>
  );
});
