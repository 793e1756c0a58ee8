/**
 * Cuts a long JSON text into its chats without reading it as a whole: the elements of a list, those of
 * an export's "chats", or one object a line. Of half a file it gives the half that is there.
 */

export interface Unit {
  text: string;
  /** Whether the text ended in the middle of it. */
  isCut: boolean;
}

type Mode = "list" | "export" | "lines" | "whole";

/** How deep the brackets are that hold the chats. */
const DEPTH: Record<"list" | "export" | "whole", number> = { list: 1, export: 2, whole: 0 };

export class UnitReader {
  #mode: Mode | null = null;
  #head = "";
  #parts: string[] = [];
  #depth = 0;
  #isInString = false;
  #isEscaped = false;
  #isInUnit = false;

  /** Take some text, and give the units that it completes. */
  feed(text: string): Unit[] {
    if (this.#mode === null) {
      this.#head += text;
      this.#mode = modeOf(this.#head);
      if (this.#mode === null) return [];
      text = this.#head;
      this.#head = "";
    }
    return this.#mode === "lines" ? this.#feedLines(text) : this.#feedNested(text);
  }

  end(): Unit[] {
    if (this.#mode === null) {
      const text = this.#head;
      this.#mode = "whole";
      return text.trim() ? [...this.#feedNested(text), ...this.#last()] : [];
    }
    return this.#last();
  }

  #last(): Unit[] {
    const text = this.#parts.join("");
    this.#parts = [];
    if (!text.trim() || (this.#mode !== "lines" && !this.#isInUnit)) return [];
    return [{ text, isCut: true }];
  }

  #feedLines(text: string): Unit[] {
    const lines = (this.#parts.join("") + text).split("\n");
    this.#parts = [lines.pop()!];
    return lines.filter((line) => line.trim()).map((line) => ({ text: line, isCut: false }));
  }

  #feedNested(text: string): Unit[] {
    const units: Unit[] = [];
    const unitDepth = DEPTH[this.#mode as keyof typeof DEPTH];
    let start = 0;
    for (let k = 0; k < text.length; k++) {
      const code = text.charCodeAt(k);
      if (this.#isInString) {
        if (this.#isEscaped) this.#isEscaped = false;
        else if (code === 92) this.#isEscaped = true;
        else if (code === 34) this.#isInString = false;
      } else if (code === 34) this.#isInString = true;
      else if (code === 123 || code === 91) {
        if (this.#depth === unitDepth && !this.#isInUnit) {
          this.#isInUnit = true;
          start = k;
        }
        this.#depth += 1;
      } else if (code === 125 || code === 93) {
        this.#depth -= 1;
        if (this.#depth === unitDepth && this.#isInUnit) {
          this.#isInUnit = false;
          units.push({ text: this.#parts.join("") + text.slice(start, k + 1), isCut: false });
          this.#parts = [];
        }
      }
    }
    if (this.#isInUnit) this.#parts.push(text.slice(start));
    return units;
  }
}

/** What a file is, by its beginning; null: not enough of it. */
function modeOf(head: string): Mode | null {
  const text = head.replace(/^\uFEFF/, "").trimStart();
  if (!text) return null;
  if (text.startsWith("[")) return "list";
  if (/^\{\s*"kind"\s*:\s*"cullama page"/.test(text)) return "export";
  const end = text.indexOf("\n");
  if (end < 0) return null;
  try {
    JSON.parse(text.slice(0, end));
    return "lines";
  } catch {
    return "whole";
  }
}

/** Complete a JSON text that was cut: without its last, unfinished value, and with its brackets. */
export function closed(text: string): string | null {
  const open: string[] = [];
  let best: { end: number; open: string } | null = null;
  let isInString = false;
  let isEscaped = false;
  for (let k = 0; k < text.length; k++) {
    const char = text[k]!;
    if (isInString) {
      if (isEscaped) isEscaped = false;
      else if (char === "\\") isEscaped = true;
      else if (char === '"') isInString = false;
      continue;
    }
    if (char === '"') isInString = true;
    else if (char === "{" || char === "[") open.push(char === "{" ? "}" : "]");
    else if (char === "}" || char === "]") {
      open.pop();
      best = { end: k + 1, open: open.toReversed().join("") };
    } else if (char === ",") best = { end: k, open: open.toReversed().join("") };
  }
  return best && text.slice(0, best.end) + best.open;
}
