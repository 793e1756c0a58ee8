import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import { createRenderer, highlighter } from "../../src/render/blocks";
import { temml } from "../../src/render/math";

beforeAll(async () => {
  await Promise.all([temml.load(), highlighter.load()]);
});

const html = (text: string) =>
  createRenderer()
    .render(text)
    .map((block) => block.html)
    .join("");

describe("math", () => {
  test.each([
    ["It costs $5 and $1.92 a day."],
    ["$0.04 × 24 = $0.96, so $5 leaves $3.08"],
    ["from $5/month to $10/month"],
    ["$ x $ and US$ and $HOME"],
    ["a price of $5_000"],
  ])("is not money: %s", (text) => {
    expect(html(text)).not.toContain("math");
    expect(html(text)).toContain("$");
  });

  test.each([["$x^2$"], ["so $\\alpha$ is"], ["$$a+b$$"], ["\\(a_1\\)"], ["\\[ E = mc^2 \\]"]])(
    "is found: %s",
    (text) => expect(html(text)).toContain("<math"),
  );

  test("that is wrong shows itself, and breaks nothing", () => {
    expect(html("$\\frac{$ and more")).toContain("more");
    expect(html("$$\\badcommand{x}$$ and")).toContain("and");
  });

  test("sends no request and runs no script", () => {
    const shown = html("$\\href{javascript:alert(1)}{x}$ $$\\includegraphics{//evil/x.png}$$");
    expect(shown).not.toMatch(/javascript:.*"|<img|src=/);
  });
});

describe("a growing text", () => {
  test("gives the blocks that the whole text gives", () => {
    const piece = fc.constantFrom(
      ...["word ", "\n", "\n\n", "- item\n", "1. one\n", "```py\n", "x = 1\n", "```\n"],
      ...["| a | b |\n|---|--:|\n| 1 | 2 |\n", "# Title\n", "> quote\n", "**b", "**", "    "],
      ...["$$", "x^2", "`c`", "<b>", "$5 "],
    );
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 18 }), (pieces) => {
        const growing = createRenderer();
        let text = "";
        for (const each of pieces) {
          text += each;
          const blocks = growing.render(text);
          const whole = createRenderer().render(text);
          expect(blocks.map((block) => block.html)).toEqual(whole.map((block) => block.html));
        }
      }),
      { numRuns: 25 },
    );
  });

  test("leaves blocks that did not change as the same objects", () => {
    const renderer = createRenderer();
    const before = renderer.render("one\n\ntwo\n\n```py\nx = 1\n```\n\nfo");
    const after = renderer.render("one\n\ntwo\n\n```py\nx = 1\n```\n\nfour");
    expect(after.slice(0, 3)).toEqual(before.slice(0, 3));
    for (let k = 0; k < 3; k++) expect(after[k]).toBe(before[k]);
  });
});

test("code has its language, its text and colours", () => {
  const [block] = createRenderer().render("```python title=x\nimport os\n```\n");
  expect(block).toMatchObject({ kind: "code", language: "python", code: "import os" });
  expect(block!.html).toContain("hljs-keyword");
});

test("a table is one, and its frame can scroll", () => {
  const [block] = createRenderer().render("| a | b |\n|--|--:|\n| 1 | 2 |\n");
  expect(block!.kind).toBe("table");
  expect(block!.html).toContain("<table");
});
