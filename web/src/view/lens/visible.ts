/** Makes white space of tokens visible: · for a space, ↵ for a line end, → for a tab. */

const SIGNS: Record<string, string> = { " ": "·", "\n": "↵", "\t": "→", "\r": "␍" };

/** Return pieces of the text; the first of each pair says whether it is a sign. */
export function visible(text: string): [isSign: boolean, piece: string][] {
  const pieces = text.match(/^ +|[\n\t\r]| +$|[^\n\t\r]+?(?= +$|[\n\t\r]|$)/g) ?? [];
  return pieces.map((piece) => {
    const isSign = /^[ \n\t\r]+$/.test(piece);
    return [isSign, isSign ? Array.from(piece, (each) => SIGNS[each] ?? each).join("") : piece];
  });
}
