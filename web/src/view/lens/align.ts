/**
 * Finds which token each rendered character came from.
 *
 * Rendering drops markdown's marks and joins white space, so that rendered text is the source with
 * holes. Characters are looked for in order, a few of them together; what is not found belongs to
 * no token.
 */

const RUN = 6; // characters that must agree before a hole is jumped over
const REACH = 400; // the longest hole: an address behind a link's text

/** Characters of the source, each with its token. Bytes that are no character alone are U+FFFD. */
export class Source {
  private readonly text: string;
  private readonly tokenAt: Int32Array;
  private at: number;

  constructor(tokens: readonly { text: string }[], begin: string) {
    this.text = tokens.map((token) => token.text).join("");
    this.tokenAt = new Int32Array(this.text.length);
    let from = 0;
    tokens.forEach((token, index) => {
      this.tokenAt.fill(index, from, from + token.text.length);
      from += token.text.length;
    });
    this.at = Math.max(0, this.text.indexOf(begin.slice(0, 40))); // behind what was thought
  }

  /** Return the token of each character of the next rendered text; -1: of none. */
  tokensOf(rendered: string): Int32Array {
    const found = new Int32Array(rendered.length).fill(-1);
    for (let k = 0; k < rendered.length; k++) {
      if (/\s/.test(rendered[k]!)) {
        if (/\s/.test(this.text[this.at] ?? "")) found[k] = this.tokenAt[this.at++]!;
        continue;
      }
      const place = this.find(rendered, k);
      if (place < 0) continue;
      found[k] = this.tokenAt[place]!;
      this.at = place + 1;
    }
    return found;
  }

  private find(rendered: string, k: number): number {
    if (this.text[this.at] === rendered[k]) return this.at;
    if (this.text[this.at] === "\uFFFD") {
      const place = this.at; // part of a character; its other parts stand behind it
      while (this.text[this.at + 1] === "\uFFFD") this.at++;
      return place;
    }
    const run = rendered.slice(k, k + RUN).split(/\s/, 1)[0]!;
    const place = this.text.indexOf(run, this.at);
    return place >= 0 && place - this.at <= REACH ? place : -1;
  }
}
