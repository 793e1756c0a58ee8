/** A tool call: its name, its arguments as they stream, its state; answered by hand in place. */

import { useId, useState } from "react";

import { Icon } from "../../icons";
import type { ToolCall, Turn } from "../../model";
import { actions } from "../../state";
import { useWords } from "../../words";
import { Button } from "../parts/buttons";
import "../../styles/calls.css";

export default function ToolCallView({
  turn,
  call,
  isWriting,
  result,
}: {
  turn: Turn;
  call: ToolCall;
  isWriting: boolean;
  result: Turn | null;
}) {
  const words = useWords();
  const state = isWriting
    ? words.callWriting
    : result
      ? words.callAnswered
      : turn.status === "failed"
        ? words.callFailed
        : words.callWaits;
  const canAnswer = !isWriting && !result && turn.status !== "failed";
  return (
    <div className="call">
      <header>
        <Icon name="tool" />
        <span>{words.calls}</span>
        <b>{call.name}</b>
        <span className="st">{state}</span>
      </header>
      <Arguments text={call.arguments} />
      {canAnswer && <ResultField give={(text) => actions.answerTool(turn.id, call.id, text)} />}
      {result && (
        <div className="ans">
          <span>{words.toolResult}</span>
          <pre tabIndex={0} dir="auto">
            {result.text}
          </pre>
        </div>
      )}
    </div>
  );
}

/** Arguments by name where they are a whole JSON object; else as they stand. */
function Arguments({ text }: { text: string }) {
  let values: unknown;
  try {
    values = JSON.parse(text);
  } catch {
    values = null;
  }
  if (typeof values !== "object" || values === null || Array.isArray(values)) {
    return text ? <pre className="args">{text}</pre> : null;
  }
  return (
    <dl>
      {Object.entries(values).map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{JSON.stringify(value)}</dd>
        </div>
      ))}
    </dl>
  );
}

function ResultField({ give }: { give: (text: string) => void }) {
  const words = useWords();
  const id = useId();
  const [typed, setTyped] = useState("");
  return (
    <div className="ans">
      <label htmlFor={id}>{words.answerByHand}</label>
      <textarea
        id={id}
        rows={2}
        value={typed}
        spellCheck={false}
        onChange={(event) => setTyped(event.target.value)}
      />
      <div>
        <span>{words.answerNote}</span>
        <Button className="prime" disabled={!typed.trim()} onClick={() => give(typed)}>
          {words.giveResult}
        </Button>
      </div>
    </div>
  );
}
