import fc from "fast-check";
import { describe, expect, it } from "vitest";

import { lineOfPlace } from "../../src/state/json_place";

const TEXT = `{
  "type": "object",
  "properties": {
    "a\\"b": { "not": {} },
    "c/d": [1, {
      "not": ["x",
        "y"]
    }]
  }, "not": 3
}`;

describe("the line of a place in a JSON text", () => {
  it.each([
    ["/type", 2],
    ["/properties", 3],
    ['/properties/a"b/not', 4],
    ["/properties/c~1d/1/not", 6],
    ["/properties/c~1d/1/not/1", 6],
    ["/not", 9],
    ["", 1],
    ["/nothing", null],
    ["/properties/type", null],
  ])("finds %s", (pointer, line) => {
    expect(lineOfPlace(TEXT, pointer)).toBe(line);
  });

  it("finds every key of any object", () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string({ minLength: 1 }), fc.jsonValue()), (value) => {
        const text = JSON.stringify(value, null, 1);
        const lines = text.split("\n");
        for (const key of Object.keys(value)) {
          const pointer = `/${key.replaceAll("~", "~0").replaceAll("/", "~1")}`;
          expect(lines[lineOfPlace(text, pointer)! - 1]).toContain(` ${JSON.stringify(key)}:`);
        }
      }),
    );
  });
});
