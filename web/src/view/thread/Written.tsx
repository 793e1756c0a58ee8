/** What an answer says: reasoning, text and tool calls. The part that a stream renders again. */

import type { Place, Turn } from "../../model";
import { actions, useStream } from "../../state";
import { useWords } from "../../words";
import { useShades } from "../lens/useShades";
import { later } from "../parts/later";
import { EditField } from "./EditField";
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

/** How the reader wants to see a turn. */
export interface Manner {
  isEditing: boolean;
  isRaw: boolean;
  isShaded: boolean;
  isInspected: boolean;
}

export interface WrittenProps {
  place: Place;
  /** The JSON schema that it was asked with, as text. */
  schema: string | null;
  /** What tools gave, by the call's id. */
  results: ReadonlyMap<string, Turn>;
  manner: Manner;
}

export function Written({ place, schema, results, manner }: WrittenProps) {
  const words = useWords();
  const { turn } = place;
  const live = useStream(turn.id);
  const isWriting = turn.status === "writing";
  const text = live?.text ?? turn.text;
  const reasoning = live?.reasoning ?? turn.reasoning;
  const calls = live?.toolCalls ?? turn.toolCalls;
  const hasBegun = text !== "" || reasoning !== "" || calls.length > 0;
  const shades = useShades(turn, manner.isShaded && !isWriting && !manner.isRaw);
  return (
    <>
      <Reasoning turn={turn} text={reasoning} live={live} />
      {manner.isEditing ? (
        <EditField
          text={turn.text}
          count={place.count}
          label={words.saveAnswer}
          save={(typed) => actions.editAnswer(turn.id, typed)}
        />
      ) : !hasBegun && isWriting ? (
        <Reading live={live} />
      ) : manner.isRaw ? (
        <pre className="raw" tabIndex={0} dir="auto">
          {text}
        </pre>
      ) : schema !== null && /^\s*[[{]/.test(text) ? (
        <JsonAnswer text={text} schema={schema} isWriting={isWriting} />
      ) : (
        <Blocks text={text} tokens={shades.tokens} isWriting={isWriting} />
      )}
      {manner.isInspected && <Inspection turn={turn} />}
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
    </>
  );
}
