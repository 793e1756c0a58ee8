/**
 * Marks which characters of rendered blocks came of which token, for the lens Probabilities.
 *
 * Tokens spell the markdown; what is rendered lacks its marks. Both are walked together: a character
 * that does not match means that a mark was passed over. A token without a character in the rendered
 * text, such as `**`, is in no span. Formulas are left as they are.
 */

import type { TokenRecord } from "../model/types";
import type { Block, Shade } from "./types";

export function shadeOf(logprob: number): Shade {
  const probability = Math.exp(logprob);
  if (probability >= 0.9) return "";
  if (probability >= 0.5) return "p1";
  return probability >= 0.2 ? "p2" : "p3";
}

/** For each character of the text, the token that wrote it; -1: none. */
export function tokenOfEach(text: string, tokens: readonly TokenRecord[]): Int32Array {
  const owners = new Int32Array(text.length).fill(-1);
  let at = firstToken(text, tokens);
  let place = 0;
  let begun = -1; // the first of the tokens that spell a character together
  for (; at < tokens.length && place < text.length; at++) {
    const spelled = tokens[at]!.text;
    if (spelled === "") continue;
    if (spelled.includes("\uFFFD") && !text.startsWith(spelled, place)) {
      if (begun < 0) begun = at; // a part of a character's bytes
      continue;
    }
    let start = place;
    if (!text.startsWith(spelled, place)) {
      start = text.indexOf(spelled, place);
      if (start < 0 || start > place + 64) {
        const short = spelled.trimStart(); // a first space that the text does not have
        start = short && text.startsWith(short, place) ? place : -1;
        if (start < 0) continue;
        owners.fill(at, start, start + short.length);
        place = start + short.length;
        begun = -1;
        continue;
      }
    }
    if (begun >= 0) owners.fill(begun, place, start);
    begun = -1;
    owners.fill(at, start, start + spelled.length);
    place = start + spelled.length;
  }
  if (begun >= 0) owners.fill(begun, place, text.length);
  return owners;
}

/** Where the answer begins, behind the tokens of its reasoning. */
function firstToken(text: string, tokens: readonly TokenRecord[]): number {
  const whole = tokens.map((token) => token.text).join("");
  const start = whole.lastIndexOf(text.slice(0, 200).trimEnd());
  if (start <= 0) return 0;
  let end = 0;
  for (const [k, token] of tokens.entries()) {
    end += token.text.length;
    if (end > start) return k;
  }
  return 0;
}

/** Return the blocks with a span around what each token wrote: class "t" and its shade, data-k its place. */
export function shadeBlocks(
  blocks: readonly Block[],
  text: string,
  tokens: readonly TokenRecord[],
): Block[] {
  const owners = tokenOfEach(text, tokens);
  let from = 0;
  return blocks.map((block) => {
    const start = text.indexOf(block.raw, from);
    if (start < 0 || block.kind === "math") return block;
    from = start + block.raw.length;
    const html = shadeHtml(block, owners.subarray(start, from), tokens);
    return { ...block, html };
  });
}

function shadeHtml(block: Block, owners: Int32Array, tokens: readonly TokenRecord[]): string {
  const template = document.createElement("template");
  template.innerHTML = block.html; // sanitised before
  const walker = document.createTreeWalker(template.content, NodeFilter.SHOW_TEXT);
  const nodes: Text[] = [];
  while (walker.nextNode()) nodes.push(walker.currentNode as Text);
  let place = 0;
  for (const node of nodes) {
    if (node.parentElement?.closest(".math")) continue;
    const owned: number[] = [];
    for (let k = 0; k < node.data.length; k++) {
      // White space between list items or cells is the renderer's own: never looked for further on.
      if (block.raw[place] !== node.data[k] && !node.data[k]!.trim()) {
        owned.push(-1);
        continue;
      }
      place = matching(block.raw, place, node.data, k);
      owned.push(block.raw[place] === node.data[k] ? owners[place]! : -1);
      if (block.raw[place] === node.data[k]) place += 1;
    }
    node.replaceWith(spans(node.data, owned, tokens));
  }
  return template.innerHTML;
}

const WINDOW = 300;

/** Where in the markdown a rendered character stands: here, or behind some marks. */
function matching(raw: string, place: number, shown: string, k: number): number {
  if (raw[place] === shown[k]) return place;
  const lengths = [8, 4, 2, 1];
  for (const length of lengths) {
    const wanted = shown.slice(k, k + length);
    const found = raw.slice(place, place + WINDOW).indexOf(wanted);
    if (found >= 0) return place + found;
  }
  return place;
}

function spans(text: string, owned: number[], tokens: readonly TokenRecord[]): DocumentFragment {
  const fragment = document.createDocumentFragment();
  for (let start = 0; start < text.length; ) {
    const owner = owned[start]!;
    let end = start + 1;
    while (end < text.length && owned[end] === owner) end += 1;
    const part = text.slice(start, end);
    start = end;
    const token = tokens[owner];
    const words = part.trimStart();
    // The space before stays outside, so that lines break where they did.
    fragment.append(part.slice(0, part.length - words.length));
    if (!words || !token) {
      fragment.append(words);
      continue;
    }
    const span = document.createElement("span");
    const shade = shadeOf(token.logprob);
    span.className = shade ? `t ${shade}` : "t";
    span.dataset.k = String(owner);
    span.textContent = words;
    fragment.append(span);
  }
  return fragment;
}
