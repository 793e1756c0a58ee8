/**
 * Shades the tokens of a rendered answer, by the model's own probabilities.
 *
 * Text nodes are wrapped into spans where they stand; leading space stays outside, so that no line
 * moves. Taken off, the text is as it was.
 */

import { type RefObject, useEffect, useRef, useState } from "react";

import type { TokenRecord, Turn } from "../../model";
import { actions } from "../../state";
import { Source } from "./align";
import { shadeOf } from "./shade";

export interface Shading {
  ref: RefObject<HTMLDivElement | null>;
  /** Asked for, but this answer was kept without probabilities. */
  isMissing: boolean;
}

export function useShading(turn: Turn, isOn: boolean): Shading {
  const ref = useRef<HTMLDivElement>(null);
  const [tokens, setTokens] = useState<TokenRecord[] | null>();
  // biome-ignore lint/correctness/useExhaustiveDependencies: again when they were stored anew
  useEffect(() => {
    if (!isOn) return;
    let isStale = false;
    void actions.loadTokens(turn.id).then((loaded) => {
      if (!isStale) setTokens(loaded);
    });
    return () => {
      isStale = true;
    };
  }, [isOn, turn.id, turn.hasTokens, turn.version]);

  useEffect(() => {
    const box = ref.current;
    if (!isOn || !box || !tokens?.length) return;
    const draw = () => {
      rendered.disconnect();
      unwrap(box);
      wrap(box, tokens, turn.text);
      rendered.observe(box, { childList: true, subtree: true });
    };
    const rendered = new MutationObserver(draw); // code is coloured a moment later
    draw();
    return () => {
      rendered.disconnect();
      unwrap(box);
    };
  }, [isOn, tokens, turn.text]);

  return { ref, isMissing: isOn && tokens !== undefined && !tokens?.length };
}

const SKIPPED = "math, .eq, header, button, .t";

function wrap(box: HTMLElement, tokens: readonly TokenRecord[], text: string): void {
  const source = new Source(tokens, text);
  const walker = document.createTreeWalker(box, NodeFilter.SHOW_TEXT, (node) =>
    node.parentElement?.closest(SKIPPED) ? NodeFilter.FILTER_REJECT : NodeFilter.FILTER_ACCEPT,
  );
  const nodes: Text[] = [];
  while (walker.nextNode()) nodes.push(walker.currentNode as Text);
  for (const node of nodes)
    node.replaceWith(wrapped(node.data, source.tokensOf(node.data), tokens));
  box.querySelector<HTMLElement>(".t")?.setAttribute("tabindex", "0");
}

function wrapped(
  text: string,
  tokenOf: Int32Array,
  tokens: readonly TokenRecord[],
): DocumentFragment {
  const made = document.createDocumentFragment();
  let from = 0;
  while (from < text.length) {
    let to = from + 1;
    while (to < text.length && tokenOf[to] === tokenOf[from]) to++;
    const piece = text.slice(from, to);
    const token = tokens[tokenOf[from]!];
    const space = token ? (/^\s*/.exec(piece)?.[0] ?? "") : piece;
    if (space) made.append(space);
    if (token && space.length < piece.length) {
      const span = document.createElement("span");
      span.className = `t ${shadeOf(token.logprob)}`.trim();
      span.dataset.at = String(tokenOf[from]);
      span.textContent = piece.slice(space.length);
      made.append(span);
    }
    from = to;
  }
  return made;
}

function unwrap(box: HTMLElement): void {
  for (const span of box.querySelectorAll(".t")) span.replaceWith(...span.childNodes);
  box.normalize();
}
