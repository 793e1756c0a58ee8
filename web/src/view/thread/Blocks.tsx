/** Markdown as blocks: only one whose text changed is rendered again. */

import { memo, useEffect, useRef } from "react";

import type { TokenRecord } from "../../model";
import { type Block, useBlocks } from "../../render";
import { useWords } from "../../words";
import { CopyWords } from "../parts/CopyButton";

export default function Blocks({
  text,
  tokens,
  isWriting,
}: {
  text: string;
  tokens: readonly TokenRecord[] | null;
  isWriting: boolean;
}) {
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
  if (block.kind === "code") return <CodeBlock block={block} />;
  const classes = { prose: "block", table: "block wide", math: "block eq" }[block.kind];
  return (
    <div
      className={classes}
      tabIndex={block.kind === "prose" ? undefined : 0}
      // biome-ignore lint/security/noDangerouslySetInnerHtml: sanitised by `render`
      dangerouslySetInnerHTML={{ __html: block.html }}
    />
  );
});

function CodeBlock({ block }: { block: Block }) {
  const words = useWords();
  return (
    <div className="code">
      <header>
        <span>{block.language || words.text}</span>
        <CopyWords text={() => block.code} />
      </header>
      <pre tabIndex={0}>
        <code
          // biome-ignore lint/security/noDangerouslySetInnerHtml: sanitised by `render`
          dangerouslySetInnerHTML={{ __html: block.html }}
        />
      </pre>
    </div>
  );
}
