/** Finds where a value stands in a JSON text, by its JSON pointer (RFC 6901). */

/** The line of the key, or of the element, from 1; null where there is none. The text is JSON. */
export function lineOfPlace(text: string, pointer: string): number | null {
  const wanted = pointer
    .split("/")
    .slice(1)
    .map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"));
  if (!wanted.length) return 1;
  // What is open at this place: an element's index, or the key that came last.
  const path: { isArray: boolean; at: string; expectsKey: boolean }[] = [];
  const isThere = () =>
    path.length === wanted.length && path.every(({ at }, depth) => at === wanted[depth]);
  for (const { 0: part, index } of text.matchAll(/"(?:[^"\\]|\\.)*"|[{}[\],:]/g)) {
    const inner = path.at(-1);
    if (part === "{" || part === "[") {
      path.push({ isArray: part === "[", at: part === "[" ? "0" : "", expectsKey: part === "{" });
    } else if (part === "}" || part === "]") {
      path.pop();
      continue;
    } else if (part === "," && inner) {
      if (inner.isArray) inner.at = String(Number(inner.at) + 1);
      else inner.expectsKey = true;
    } else if (part === ":" || !inner?.expectsKey) {
      continue;
    } else {
      inner.at = JSON.parse(part);
      inner.expectsKey = false;
    }
    const isKnown = !path.at(-1)?.expectsKey;
    if (isKnown && isThere()) return text.slice(0, index).split("\n").length;
  }
  return null;
}
