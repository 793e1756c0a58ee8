/** Makes sanitised blocks of markdown. A growing text is read again from its last blocks on only. */

import createPurify, { type Config } from "dompurify";
import { Marked, type Token, type Tokens } from "marked";
import { lazy, numLoaded } from "./lazy";
import { blockMath, escaped, inlineMath } from "./math";
import type { Block, Renderer } from "./types";

export const highlighter = lazy(() => import("./languages").then((module) => module.highlight));

/** Code that is still being written is highlighted up to this length: it is done at every paint. */
const MAX_OPEN_CODE = 8000;
const MAX_CODE = 100_000;

const marked = new Marked({
  gfm: true,
  extensions: [blockMath, inlineMath],
  renderer: {
    // What a model writes is text: its HTML is shown, not obeyed.
    html: ({ text }) => escaped(text),
    // A picture would be a request, to another origin or to this one.
    image: ({ href, text }) => `<a href="${escaped(href)}">${escaped(text || href)}</a>`,
    code: ({ text, lang }) =>
      `<pre tabindex="0"><code>${colored(text, languageOf(lang), MAX_CODE)}</code></pre>\n`,
  },
});

const purify = createPurify(window);
purify.addHook("afterSanitizeAttributes", (node) => {
  if (node.nodeName === "A") {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer nofollow");
  }
});

const ALLOWED: Config = {
  USE_PROFILES: { html: true, mathMl: true },
  // The server's policy forbids styles in attributes; the rest could meet the page's own elements.
  FORBID_ATTR: ["style", "id", "name", "srcset", "src", "background", "for", "form"],
  FORBID_TAGS: [
    "style",
    "form",
    "button",
    "textarea",
    "select",
    "img",
    "video",
    "audio",
    "picture",
  ],
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:|#)/i,
  ALLOW_DATA_ATTR: false,
  ADD_ATTR: ["tabindex", "target"],
};

export function createRenderer(): Renderer {
  return new GrowingText();
}

class GrowingText implements Renderer {
  #text = "";
  #blocks: Block[] = [];
  /** Blocks that will not change any more, and where the text behind them begins. */
  #numClosed = 0;
  #closedEnd = 0;
  #loaded = numLoaded.get();

  render(text: string): Block[] {
    const isSame = text === this.#text && this.#loaded === numLoaded.get();
    if (isSame) return this.#blocks;
    if (!text.startsWith(this.#text.slice(0, this.#closedEnd))) this.#forget();
    if (this.#loaded !== numLoaded.get()) this.#forget();
    this.#loaded = numLoaded.get();
    const old = this.#blocks;
    const closed = old.slice(0, this.#numClosed);
    const tokens = marked.lexer(text.slice(this.#closedEnd));
    const open = tokens.filter((token) => token.type !== "space" && token.type !== "def");
    const blocks = open.map((token, k) => {
      const before = old[closed.length + k];
      const isClosed = k < open.length - 1;
      if (before && before.raw === token.raw && before.isClosed === isClosed) return before;
      return blockOf(token, `${closed.length + k}`, isClosed);
    });
    this.#text = text;
    this.#blocks = [...closed, ...blocks];
    this.#close(tokens, closed.length);
    return this.#blocks;
  }

  /** All but the last two blocks are read once: a list may go on behind an empty line. */
  #close(tokens: Token[], numBefore: number): void {
    const places = tokens.flatMap((token, k) =>
      token.type === "space" || token.type === "def" ? [] : [k],
    );
    const keep = places.at(-2);
    // Where links are defined, what they are may come behind: then the whole text is read.
    if (keep === undefined || tokens.some((token) => token.type === "def")) return;
    const closing = tokens.slice(0, keep);
    this.#closedEnd += closing.reduce((sum, token) => sum + token.raw.length, 0);
    this.#numClosed = numBefore + places.length - 2;
  }

  #forget(): void {
    this.#numClosed = 0;
    this.#closedEnd = 0;
    this.#blocks = [];
  }
}

function blockOf(token: Token, key: string, isClosed: boolean): Block {
  const block: Block = {
    key,
    kind: "prose",
    html: "",
    language: "",
    code: "",
    raw: token.raw,
    isClosed,
  };
  if (token.type === "code") {
    const { text, lang } = token as Tokens.Code;
    const language = languageOf(lang);
    const html = colored(text, language, isClosed ? MAX_CODE : MAX_OPEN_CODE);
    return { ...block, kind: "code", language, code: text, html: clean(html) };
  }
  const html = marked.parser([token]);
  const kind = token.type === "table" ? "table" : token.type === "blockMath" ? "math" : "prose";
  return { ...block, kind, html: clean(html) };
}

/** Tags that can do nothing, without attributes but for the classes of highlighted code. */
const HARMLESS =
  /<\/?(?:p|em|strong|del|code|pre|ul|ol|li|h[1-6]|blockquote)>|<br>|<hr>|<span class="[\w -]*">|<\/span>/g;

function clean(html: string): string {
  // What is written at this moment is plain nearly always: sanitising it was a third of its cost.
  if (!html.replace(HARMLESS, "").includes("<")) return html;
  return purify.sanitize(html, { ...ALLOWED, RETURN_TRUSTED_TYPE: false });
}

function languageOf(words: string | undefined): string {
  return /^[\w+#.-]*/.exec(words ?? "")![0].toLowerCase();
}

function colored(code: string, language: string, longest: number): string {
  if (!language || code.length > longest) return escaped(code);
  return highlighter.get()?.(code, language) ?? escaped(code);
}
