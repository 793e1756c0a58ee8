/** Makes white space of tokens visible: · for a space, ↵ for a line end, → for a tab. */

const SIGNS: Record<string, string> = { " ": "·", "\n": "↵", "\t": "→", "\r": "␍" };

/** Pieces of the text; the first of each pair says whether it is a sign. */
function visible(text: string): [isSign: boolean, piece: string][] {
  const pieces = text.match(/^ +|[\n\t\r]| +$|[^\n\t\r]+?(?= +$|[\n\t\r]|$)/g) ?? [];
  return pieces.map((piece) => {
    const isSign = /^[ \n\t\r]+$/.test(piece);
    return [isSign, isSign ? Array.from(piece, (each) => SIGNS[each] ?? each).join("") : piece];
  });
}

/** A token's text with its spaces and line ends made visible. */
export function Visible({ text }: { text: string }) {
  return visible(text).map(([isSign, piece], at) => (isSign ? <i key={at}>{piece}</i> : piece));
}
