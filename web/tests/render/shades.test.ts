import { beforeAll, expect, test } from "vitest";
import type { TokenRecord } from "../../src/model";
import { createRenderer, highlighter } from "../../src/render/blocks";
import { temml } from "../../src/render/math";
import { shadeBlocks } from "../../src/render/shades";

beforeAll(async () => {
  await Promise.all([temml.load(), highlighter.load()]);
});

/** Tokens as a model spells text: words with the space before them, marks and line ends apart. */
const tokensOf = (text: string): TokenRecord[] =>
  (text.match(/ ?[\p{L}]+|\n|[^\n]/gu) ?? []).map((piece, k) => ({
    id: k,
    text: piece,
    logprob: -2,
    top: [],
  }));

/** The shaded words of the text, and the words of the tokens that are said to have written them. */
function shaded(text: string): [string, string][] {
  const tokens = tokensOf(text);
  const page = document.createElement("div");
  page.innerHTML = shadeBlocks(createRenderer().render(text), text, tokens)
    .map((block) => block.html)
    .join("");
  const spans = [...page.querySelectorAll<HTMLElement>("span.t")];
  return spans.map((span) => [span.textContent, tokens[Number(span.dataset.k)]!.text.trim()]);
}

test.each([
  ["a numbered list", "1. The moon orbits the Earth.\n2. The Earth turns.\n3. Both are round."],
  ["items apart", "- The moon is *very* round.\n\n- The **sun** is hot, the moon is not."],
  ["a list in a list", "Facts:\n\n- one is the moon\n  - the inner one\n- the last one"],
  ["a table", "| the moon | the sun |\n|---|---|\n| the small one | the one |\n| a | b |"],
  ["code", "So:\n\n```python\nfor moon in moons:\n    print(moon)\n```\n\nthe end of the moon"],
  ["a quote", "> the moon is the one\n> that the sun lights\n\nthe end"],
])("every word of %s is shaded by the token that wrote it", (_name, text) => {
  const pairs = shaded(text);
  for (const [shown, written] of pairs) expect(shown).toBe(written);
  const words = (of: string) => of.match(/\p{L}+/gu) ?? [];
  const expected = words(text.replace("```python", ""));
  expect(words(pairs.map(([shown]) => shown).join(" "))).toEqual(expected);
});
