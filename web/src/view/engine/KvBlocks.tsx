/** The blocks of the KV cache, a cell each; of large caches, a cell for several. */

import { memo } from "react";

import type { EngineBlocks } from "../../model";
import { useWords } from "../../words";
import { UNKNOWN } from "../thread/numbers";

const CELLS = 512; // at most

export function Blocks({ blocks }: { blocks: EngineBlocks | null }) {
  const words = useWords();
  if (!blocks) {
    return (
      <>
        <h2>{words.kvBlocks}</h2>
        <p className="hintline">{UNKNOWN}</p>
      </>
    );
  }
  const own = blocks.own ?? 0;
  const others = Math.max(0, blocks.referenced - own);
  const scale = Math.max(1, Math.ceil(blocks.total / CELLS));
  const counts = `${blocks.referenced} ${words.inUse}, ${blocks.cached} ${words.freeToTake}, ${blocks.free} ${words.freeBlocks}`;
  return (
    <>
      <h2>
        {words.kvBlocks}
        <small>
          {words.kvSize(blocks.total, blocks.size)}
          {scale > 1 && ` · ${words.kvScale(scale)}`}
        </small>
      </h2>
      <div className="kv" role="img" aria-label={`${words.kvBlocks}: ${counts}`}>
        <Cells
          own={own}
          others={others}
          cached={blocks.cached}
          total={blocks.total}
          scale={scale}
        />
      </div>
      <p className="keys">
        {blocks.own !== null && (
          <span>
            <i className="sw m" />
            {words.count(own)} {words.thisChat}
          </span>
        )}
        <span>
          <i className="sw u" />
          {words.count(others)} {words.inUse}
        </span>
        <span>
          <i className="sw c" />
          {words.count(blocks.cached)} {words.freeToTake}
        </span>
        <span>
          <i className="sw f" />
          {words.count(blocks.free)} {words.freeBlocks}
        </span>
      </p>
    </>
  );
}

const Cells = memo(function Cells({
  own,
  others,
  cached,
  total,
  scale,
}: {
  own: number;
  others: number;
  cached: number;
  total: number;
  scale: number;
}) {
  return Array.from({ length: Math.ceil(total / scale) }, (_, cell) => {
    const at = cell * scale;
    const kind =
      at < own ? "m" : at < own + others ? "u" : at < own + others + cached ? "c" : undefined;
    return <i key={cell} className={kind} />;
  });
});
