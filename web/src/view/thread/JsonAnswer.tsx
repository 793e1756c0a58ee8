/** An answer that a JSON schema shapes: a block of JSON, and below it how far it is valid. */

import { useMemo } from "react";

import { Icon } from "../../icons";
import { useWords } from "../../words";
import { CopyWords } from "../parts/CopyButton";
import { checkAnswer } from "./schemaCheck";
import "../../styles/calls.css";

export default function JsonAnswer({
  text,
  schema,
  isWriting,
}: {
  text: string;
  schema: string;
  isWriting: boolean;
}) {
  const words = useWords();
  const verdict = useMemo(() => checkAnswer(text, schema, isWriting), [text, schema, isWriting]);
  const isGood = verdict.kind !== "wrong";
  return (
    <div className="code">
      <header>
        <span>json</span>
        <CopyWords text={() => text} />
      </header>
      <pre tabIndex={0} className={isWriting ? "writing" : undefined}>
        <code>
          {pieces(layOut(text)).map(([kind, piece], at) => (
            <span key={at} className={kind}>
              {piece}
            </span>
          ))}
        </code>
      </pre>
      <div className="jsonline">
        <span className={isGood ? "ok" : "bad"}>
          <Icon name={isGood ? "check" : "warn"} />
        </span>
        <span>
          <b>
            {verdict.kind === "wrong"
              ? words.notValid
              : verdict.kind === "whole"
                ? words.valid
                : words.validSoFar}
          </b>
          {verdict.kind === "wrong" && ` · ${verdict.where}`}
          {verdict.kind === "whole" &&
            verdict.required > 0 &&
            ` · ${words.fieldsAll(verdict.required)}`}
          {verdict.kind === "begun" &&
            verdict.required > 0 &&
            ` · ${words.fieldsWritten(verdict.written, verdict.required)}`}
        </span>
      </div>
    </div>
  );
}

const TOKEN = /"(?:[^"\\]|\\.)*"?|[{}[\],:]|[^\s"{}[\],:]+/g;

/** Set JSON of one line out in lines, whole or not; what has lines of its own stays as it is. */
function layOut(text: string): string {
  if (text.includes("\n")) return text;
  let out = "";
  let depth = 0;
  let last = "";
  for (const [token] of text.matchAll(TOKEN)) {
    const closes = token === "}" || token === "]";
    if (closes) depth -= 1;
    const opened = last === "{" || last === "[";
    if ((opened && !closes) || last === "," || (closes && !opened)) {
      out += `\n${"  ".repeat(Math.max(0, depth))}`;
    }
    out += token === ":" ? ": " : token;
    if (token === "{" || token === "[") depth += 1;
    last = token;
  }
  return out;
}

const PIECE = /("(?:[^"\\]|\\.)*"?)(\s*:)?/g;

/** Split JSON into names (k), strings (s) and the rest, each with its class. */
function pieces(text: string): [string, string][] {
  const found: [string, string][] = [];
  let last = 0;
  for (const match of text.matchAll(PIECE)) {
    if (match.index > last) found.push(["", text.slice(last, match.index)]);
    found.push([match[2] ? "k" : "s", match[1]!]);
    if (match[2]) found.push(["", match[2]]);
    last = match.index + match[0].length;
  }
  if (last < text.length) found.push(["", text.slice(last)]);
  return found;
}
