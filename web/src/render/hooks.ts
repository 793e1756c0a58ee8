/** Rendering for views. */

import { useMemo, useRef } from "react";
import type { TokenRecord } from "../model";
import { useCell } from "../state/cell";
import { createRenderer } from "./blocks";
import { numLoaded } from "./lazy";
import { shadeBlocks } from "./shades";
import type { Block, Renderer } from "./types";

/**
 * The blocks of a text that may grow. Those that did not change are the same objects as before.
 *
 * @param tokens shade the text by their probabilities; null: not.
 */
export function useBlocks(text: string, tokens: readonly TokenRecord[] | null = null): Block[] {
  const renderer = useRef<Renderer>(null);
  renderer.current ??= createRenderer();
  const loaded = useCell(numLoaded);
  // biome-ignore lint/correctness/useExhaustiveDependencies: what was loaded changes what is rendered
  const blocks = useMemo(() => renderer.current!.render(text), [text, loaded]);
  return useMemo(
    () => (tokens ? shadeBlocks(blocks, text, tokens) : blocks),
    [blocks, text, tokens],
  );
}
