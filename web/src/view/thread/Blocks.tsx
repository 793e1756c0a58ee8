/** Markdown as blocks: only one whose text changed is rendered again. */

import { memo, useMemo, useRef } from "react";

import { type Block, createRenderer } from "../../render";
import { useWords } from "../../words";
import { CopyWords } from "../parts/CopyButton";

export function Blocks({ text }: { text: string }) {
  const renderer = useRef<ReturnType<typeof createRenderer> | null>(null);
  renderer.current ??= createRenderer();
  const blocks = useMemo(() => renderer.current!.render(text), [text]);
  return blocks.map((block) => <BlockView key={block.key} block={block} />);
}

const BlockView = memo(function BlockView({ block }: { block: Block }) {
  if (block.kind === "code") return <CodeBlock block={block} />;
  const classes = { prose: "block", table: "block wide", math: "block eq" }[block.kind];
  const scrolls = block.kind !== "prose";
  return (
    <div
      className={classes}
      tabIndex={scrolls ? 0 : undefined}
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
