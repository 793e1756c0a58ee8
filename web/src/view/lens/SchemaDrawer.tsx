/** The editor of a JSON schema: checked a moment after typing, used from the next answer on. */

import { useEffect, useId, useRef, useState } from "react";

import { Icon } from "../../icons";
import { actions, type SchemaVerdict } from "../../state";
import { useWords, type Words } from "../../words";
import { Button } from "../parts/buttons";
import { Drawer } from "../parts/Drawer";
import type { Settled } from "./useSettled";

const FIRST = JSON.stringify(
  {
    type: "object",
    properties: {
      name: { type: "string" },
      age: { type: "integer", minimum: 0 },
      likes: { type: "array", items: { type: "string" }, maxItems: 3 },
    },
    required: ["name", "age", "likes"],
  },
  null,
  2,
);

export function SchemaDrawer({ settled, close }: { settled: Settled; close: () => void }) {
  const words = useWords();
  const ids = useId();
  const used = settled.settings?.schema ?? null;
  const [text, setText] = useState(used ?? FIRST);
  const verdict = useVerdict(text);
  const isBad = verdict !== null && !verdict.ok;
  const line = verdict !== null && !verdict.ok ? verdict.line : null;
  const field = useRef<HTMLTextAreaElement>(null);
  return (
    <Drawer
      title={words.schemaTitle}
      close={close}
      footer={
        <>
          <Button
            className="prime"
            disabled={!verdict?.ok}
            onClick={() => {
              settled.update({ schema: text });
              close();
            }}
          >
            {words.useSchema}
          </Button>
          {used !== null && (
            <Button
              onClick={() => {
                settled.update({ schema: null });
                close();
              }}
            >
              {words.noSchema}
            </Button>
          )}
        </>
      }
    >
      <p className="lead">{words.schemaNote}</p>
      <div className="ed">
        <label className="vh" htmlFor={`${ids}text`}>
          {words.schemaTitle}
        </label>
        <textarea
          id={`${ids}text`}
          ref={field}
          rows={21}
          spellCheck={false}
          value={text}
          aria-invalid={isBad || undefined}
          aria-describedby={`${ids}verdict`}
          onChange={(event) => setText(event.target.value)}
        />
      </div>
      <p className={isBad ? "verdict bad" : "verdict ok"} id={`${ids}verdict`} role="status">
        {verdict && <Icon name={isBad ? "warn" : "check"} />}
        {verdict && said(verdict, words)}
        {line !== null && (
          <button type="button" className="back" onClick={() => showLine(field.current, line)}>
            {words.showLine}
          </button>
        )}
      </p>
    </Drawer>
  );
}

/** Select a line, counted from 1, and scroll to it: asked for by a click, never while typing. */
function showLine(field: HTMLTextAreaElement | null, line: number): void {
  if (!field) return;
  const lines = field.value.split("\n");
  const start = lines.slice(0, line - 1).reduce((sum, each) => sum + each.length + 1, 0);
  field.focus();
  field.setSelectionRange(start, start + (lines[line - 1]?.length ?? 0));
  field.scrollTop = (field.scrollHeight * (line - 1)) / lines.length - field.clientHeight / 2;
}

const CHECK_AFTER = 300; // milliseconds without a key

/** What the server says of the text; null while it is not known. */
function useVerdict(text: string): SchemaVerdict | null {
  const [verdict, setVerdict] = useState<SchemaVerdict | null>(null);
  useEffect(() => {
    let isStale = false;
    const timer = setTimeout(async () => {
      const found = await actions.checkSchema(text);
      if (!isStale) setVerdict(found);
    }, CHECK_AFTER);
    return () => {
      isStale = true;
      clearTimeout(timer);
      setVerdict(null);
    };
  }, [text]);
  return verdict;
}

function said(verdict: SchemaVerdict, words: Words): string {
  if (verdict.ok) {
    return verdict.milliseconds === null
      ? words.schemaValid
      : words.compiled(Math.max(1, Math.round(verdict.milliseconds)));
  }
  const what = verdict.keyword ? words.notSupported(verdict.keyword) : verdict.message;
  return verdict.line === null ? what : words.jsonError(verdict.line, what);
}
