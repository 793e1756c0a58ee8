/** The prompt of the answer in view, token by token, as the model read it. */

import { useEffect, useState } from "react";

import { Icon } from "../../icons";
import type { PromptPart, PromptToken, PromptView } from "../../model";
import { copyText } from "../../render/copy";
import { actions, type ChatView } from "../../state";
import { useWords, type Words } from "../../words";
import { Button, Segments } from "../parts/buttons";
import { Drawer } from "../parts/Drawer";
import { useAnswerInView } from "./useAnswerInView";
import { Visible } from "./Visible";

type Form = "tokens" | "text" | "ids";

export function PromptDrawer({ view, close }: { view: ChatView | null; close: () => void }) {
  const words = useWords();
  const turn = useAnswerInView(view);
  const [prompt, setPrompt] = useState<PromptView | { error: string }>();
  const [form, setForm] = useState<Form>("tokens");
  const isWriting = turn?.status === "writing";
  // biome-ignore lint/correctness/useExhaustiveDependencies: again when the answer has ended
  useEffect(() => {
    if (!turn) return;
    let isStale = false;
    void actions.loadPrompt(turn.id).then((loaded) => {
      if (!isStale) setPrompt(loaded);
    });
    return () => {
      isStale = true;
    };
  }, [turn?.id, isWriting]);
  const isRead = prompt && !("error" in prompt) && turn;
  return (
    <Drawer
      title={words.promptTitle}
      close={close}
      footer={
        isRead && (
          <>
            <Button icon="copy" className="line" onClick={() => copyText(prompt.text)}>
              {words.copyText}
            </Button>
            <Button
              className="line"
              onClick={() => copyText(prompt.tokens.map((token) => token.id).join(" "))}
            >
              {words.copyIds}
            </Button>
          </>
        )
      }
    >
      {!turn && <p className="lead">{words.noPrompt}</p>}
      {turn && prompt && "error" in prompt && <p className="verdict bad">{prompt.error}</p>}
      {isRead && (
        <>
          <Summary prompt={prompt} />
          <div className="xtop">
            <Segments
              label={words.promptTitle}
              options={[
                ["tokens", words.showTokens],
                ["text", words.showText],
                ["ids", words.showIds],
              ]}
              value={form}
              onChange={setForm}
            />
          </div>
          <Parts prompt={prompt} form={form} />
        </>
      )}
    </Drawer>
  );
}

function Summary({ prompt }: { prompt: PromptView }) {
  const words = useWords();
  const total = prompt.tokens.length;
  const { cached } = prompt;
  return (
    <>
      <p className="sum">
        <b>{words.count(total)}</b> {words.promptTokens}
      </p>
      <div className="parts" aria-hidden="true">
        {prompt.parts.flatMap((part) =>
          pieces(part, cached).map((piece) => (
            <i
              key={piece.start}
              className={piece.isCached ? "hit" : ""}
              style={{ flex: piece.end - piece.start }}
            />
          )),
        )}
      </div>
      {cached !== null && (
        <p className="keys">
          <span>
            <i className="sw hit" />
            {words.count(cached)} {words.fromCache}
          </span>
          <span>
            <i className="sw" />
            {words.count(total - cached)} {words.readAnew}
          </span>
        </p>
      )}
    </>
  );
}

interface Piece extends PromptPart {
  isCached: boolean;
}

/** A part is in two pieces where the cache ends within it. */
function pieces(part: PromptPart, cached: number | null): Piece[] {
  const edge = Math.min(part.end, Math.max(part.start, cached ?? 0));
  return [
    { ...part, end: edge, isCached: true },
    { ...part, start: edge, isCached: false },
  ].filter((piece) => piece.end > piece.start);
}

const LONG = 160; // tokens of a part that are shown before it is opened

function Parts({ prompt, form }: { prompt: PromptView; form: Form }) {
  const words = useWords();
  const all = prompt.parts.flatMap((part) => pieces(part, prompt.cached));
  const cached = all.filter((piece) => piece.isCached);
  const anew = all.filter((piece) => !piece.isCached);
  return (
    <>
      {cached.length > 0 && <Zone prompt={prompt} parts={cached} form={form} isCached />}
      {cached.length > 0 && anew.length > 0 && <p className="edgeline">{words.cacheEnds}</p>}
      {anew.length > 0 && <Zone prompt={prompt} parts={anew} form={form} isCached={false} />}
    </>
  );
}

function Zone({
  prompt,
  parts,
  form,
  isCached,
}: {
  prompt: PromptView;
  parts: Piece[];
  form: Form;
  isCached: boolean;
}) {
  const words = useWords();
  return (
    <div className={isCached ? "zone hit" : "zone"}>
      {parts.map((part) => (
        <Part key={part.start} part={part} prompt={prompt} form={form} words={words} />
      ))}
    </div>
  );
}

function Part({
  part,
  prompt,
  form,
  words,
}: {
  part: Piece;
  prompt: PromptView;
  form: Form;
  words: Words;
}) {
  const [isOpen, setOpen] = useState(false);
  const tokens = prompt.tokens.slice(part.start, part.end);
  const shown = isOpen ? tokens : tokens.slice(0, LONG);
  return (
    <div className="part">
      <h3>
        <span>{partName(part.role, words)}</span>
        <span>{words.count(tokens.length)}</span>
      </h3>
      {form === "text" ? (
        <pre className="plain">{shown.map((token) => token.text).join("")}</pre>
      ) : (
        <Chips tokens={shown} isCached={part.isCached} form={form} />
      )}
      {shown.length < tokens.length && (
        <button type="button" className="fold" onClick={() => setOpen(true)}>
          <Icon name="right" />
          <span>{words.showRest}</span>
          <span>{words.count(tokens.length - shown.length)}</span>
        </button>
      )}
    </div>
  );
}

/** Tab enters once; ← and → go from token to token, and say id and bytes, as hovering does. */
function Chips({
  tokens,
  isCached,
  form,
}: {
  tokens: readonly PromptToken[];
  isCached: boolean;
  form: Form;
}) {
  const words = useWords();
  const [current, setCurrent] = useState<number | null>(null);
  const token = current === null ? undefined : tokens[current];
  return (
    <>
      <div
        className={isCached ? "chips hit" : "chips"}
        role="group"
        aria-label={words.showTokens}
        tabIndex={0}
        onBlur={() => setCurrent(null)}
        onKeyDown={(event) => {
          const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
          if (by === undefined) return;
          event.preventDefault();
          setCurrent((now) => Math.max(0, Math.min(tokens.length - 1, (now ?? -1) + by)));
        }}
      >
        {tokens.map((each, at) => (
          <Chip key={at} token={each} form={form} isCurrent={at === current} />
        ))}
      </div>
      <p className="cap" role="status">
        {token && words.tokenBytes(token.id, hex(token.bytes))}
      </p>
    </>
  );
}

const hex = (bytes: readonly number[]) =>
  bytes.map((byte) => byte.toString(16).padStart(2, "0")).join(" ");

function Chip({ token, form, isCurrent }: { token: PromptToken; form: Form; isCurrent: boolean }) {
  const words = useWords();
  return (
    <>
      <span
        className={`${token.isControl ? "ct" : ""} ${isCurrent ? "cur" : ""}`}
        title={words.tokenBytes(token.id, hex(token.bytes))}
      >
        {form === "ids" ? token.id : token.isControl ? token.text : <Visible text={token.text} />}
      </span>
      {token.text.endsWith("\n") && form === "tokens" && <br />}
    </>
  );
}

function partName(role: PromptPart["role"], words: Words): string {
  switch (role) {
    case "system":
      return words.systemPart;
    case "user":
      return words.you;
    case "assistant":
      return words.answer;
    case "tool":
      return words.toolResult;
    case "next":
      return words.answerStarts;
  }
}
