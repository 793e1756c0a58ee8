/** What rendering gives to views. */

/**
 * One block of markdown: a paragraph, list, table, quote, heading, code block or formula.
 *
 * Views place `html`, which is sanitised, with `patch`. A block whose text did not
 * change is the same object as before, so that `memo` leaves it alone.
 */
export interface Block {
  /** Stays the same while a text grows. */
  key: string;
  kind: "prose" | "table" | "code" | "math";
  html: string;
  /** kind code: its language as written, and its text, to be copied. */
  language: string;
  code: string;
  /** Its markdown. */
  raw: string;
  /** Whether something follows it, so that it will not change any more. */
  isClosed: boolean;
}

/** Makes blocks of a text; keeps what it made of the last one. One for each turn. */
export interface Renderer {
  render(text: string): Block[];
}

/** How likely a token was: none ≥ 90 %, p1 ≥ 50 %, p2 ≥ 20 %, p3 below. */
export type Shade = "" | "p1" | "p2" | "p3";
