/** Markdown as blocks: only one whose text changed is rendered again. */

import { memo, type RefObject, useEffect, useLayoutEffect, useRef } from "react";

import type { TokenRecord } from "../../model";
import { type Block, patch, useBlocks } from "../../render";
import { useWords } from "../../words";
import { CopyWords } from "../parts/CopyButton";
import { useNearView } from "./useNearView";

interface BlocksProps {
  text: string;
  tokens: readonly TokenRecord[] | null;
  isWriting: boolean;
}

/** An answer far from what is read stays plain text: in a long chat that is most of them. */
export default function Blocks(props: BlocksProps) {
  const box = useRef<HTMLDivElement>(null);
  const isNear = useNearView(box, props.isWriting);
  if (isNear) return <Rendered {...props} />;
  return (
    <div ref={box} className="prose plaintext" dir="auto">
      {props.text}
    </div>
  );
}

function Rendered({ text, tokens, isWriting }: BlocksProps) {
  const box = useRef<HTMLDivElement>(null);
  const blocks = useBlocks(text, tokens);
  // biome-ignore lint/correctness/useExhaustiveDependencies: again when blocks were rendered
  useEffect(() => {
    // Tab enters the shaded text once; arrows go on from there.
    if (tokens) box.current?.querySelector<HTMLElement>(".t")?.setAttribute("tabindex", "0");
  }, [tokens, blocks]);
  return (
    <div ref={box} className={isWriting ? "prose writing" : "prose"} dir="auto">
      {blocks.map((block) => (
        <BlockView key={block.key} block={block} />
      ))}
    </div>
  );
}

const BlockView = memo(function BlockView({ block }: { block: Block }) {
  return block.kind === "code" ? <CodeBlock block={block} /> : <TextBlock block={block} />;
});

const CLASSES = { prose: "block", table: "block wide", math: "block eq", code: "code" };

function TextBlock({ block }: { block: Block }) {
  const box = useHtml<HTMLDivElement>(block.html);
  const tabIndex = block.kind === "prose" ? undefined : 0; // what scrolls sideways, by keys
  return <div ref={box} className={CLASSES[block.kind]} tabIndex={tabIndex} />;
}

/** Fill an element with sanitised HTML; of one that grows, only what is new is changed. */
function useHtml<Kind extends Element>(html: string): RefObject<Kind | null> {
  const box = useRef<Kind>(null);
  useLayoutEffect(() => {
    if (box.current) patch(box.current, html);
  }, [html]);
  return box;
}

function CodeBlock({ block }: { block: Block }) {
  const words = useWords();
  const code = useHtml<HTMLElement>(block.html);
  return (
    <div className="code">
      <header>
        <span>{block.language || words.text}</span>
        <CopyWords text={() => block.code} />
      </header>
      <pre tabIndex={0}>
        <code ref={code} />
      </pre>
    </div>
  );
}
