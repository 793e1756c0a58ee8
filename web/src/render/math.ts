/**
 * Finds formulas in markdown, by rules that leave money alone; temml draws them, loaded when the first
 * one is met.
 *
 * Formulas are `$$…$$`, `\(…\)`, `\[…\]`, and `$…$` with no space inside the dollars, no digit behind
 * the second, and a letter, `\`, `^` or `_` between them: `$5` and `$1.92` are money.
 */

import type { TokenizerAndRendererExtension, Tokens } from "marked";
import { lazy } from "./lazy";

export const temml = lazy(() => import("temml").then((module) => module.default));

const BLOCK = /^ {0,3}(?:\$\$([\s\S]+?)\$\$|\\\[([\s\S]+?)\\\]) *(?:\n+|$)/;
const INLINE = /^(?:\$\$([^$]+?)\$\$|\\\(([\s\S]+?)\\\)|\\\[([\s\S]+?)\\\])/;
const DOLLARS = /^\$(?![\s$])((?:\\[\s\S]|[^$\\\n])*?(?:\\[\s\S]|[^$\\\s]))\$(?!\d)/;
const IS_FORMULA = /[\p{L}\\^_]/u;

export const blockMath: TokenizerAndRendererExtension = {
  name: "blockMath",
  level: "block",
  start: (text) => /(?:^|\n) {0,3}(?:\$\$|\\\[)/.exec(text)?.index,
  tokenizer(text) {
    const found = BLOCK.exec(text);
    if (!found) return undefined;
    return { type: "blockMath", raw: found[0], text: (found[1] ?? found[2] ?? "").trim() };
  },
  renderer: (token) => draw(token, true),
};

export const inlineMath: TokenizerAndRendererExtension = {
  name: "inlineMath",
  level: "inline",
  start: (text) => /\$|\\[([]/.exec(text)?.index,
  tokenizer(text) {
    const found = INLINE.exec(text);
    if (found) {
      const formula = found[1] ?? found[2] ?? found[3] ?? "";
      const isBlock = found[2] === undefined;
      return { type: "inlineMath", raw: found[0], text: formula.trim(), isBlock };
    }
    const dollars = DOLLARS.exec(text);
    if (!dollars || !IS_FORMULA.test(dollars[1]!)) return undefined;
    return { type: "inlineMath", raw: dollars[0], text: dollars[1]!, isBlock: false };
  },
  renderer: (token) => draw(token, token.isBlock === true),
};

function draw(token: Tokens.Generic, isBlock: boolean): string {
  const drawn = temml.get()?.renderToString(token.text, {
    displayMode: isBlock,
    throwOnError: false,
    trust: false, // no links, pictures or attributes of the formula's own
    maxExpand: 200,
    maxSize: [20, 40],
  });
  const name = isBlock ? "math block" : "math";
  // The server's policy forbids styles in attributes, also where they are only parsed.
  const plain = drawn?.replace(/<[^>]*>/g, (tag) => tag.replace(/ style="[^"]*"/g, ""));
  return `<span class="${name}">${plain ?? `<code>${escaped(token.raw.trim())}</code>`}</span>`;
}

export function escaped(text: string): string {
  const names: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
  return text.replace(/[&<>"]/g, (char) => names[char]!);
}
