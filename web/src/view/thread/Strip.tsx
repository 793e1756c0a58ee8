/** One bar a token, tall where it was surprising; longer answers show the mean of each group. */

import { memo } from "react";

const WIDTH = 150;
const HEIGHT = 26;
const BARS = 75; // at most: two pixels each
const SHORT = 38; // a bar's width is that of so many at least
const TALL = 9; // pixels: from here on it is copper

// Two paths, whatever the number of bars: a stream changes them with every paint.
export const Strip = memo(function Strip({ values }: { values: readonly number[] }) {
  const bars = grouped(values, BARS);
  const step = WIDTH / Math.max(SHORT, bars.length);
  const paths = { low: "", tall: "" };
  for (const [at, value] of bars.entries()) {
    const height = Math.max(1.2, value * (HEIGHT - 2));
    const width = Math.max(1, step - 1);
    const bar = `M${rounded(at * step)} ${HEIGHT}v${rounded(-height)}h${rounded(width)}V${HEIGHT}z`;
    paths[height > TALL ? "tall" : "low"] += bar;
  }
  return (
    <svg className="strip" viewBox={`0 0 ${WIDTH} ${HEIGHT}`} aria-hidden="true">
      <path d={paths.low} fill="var(--edge)" />
      <path d={paths.tall} fill="var(--copper)" />
    </svg>
  );
});

function rounded(length: number): number {
  return Math.round(length * 100) / 100;
}

function grouped(values: readonly number[], most: number): number[] {
  if (values.length <= most) return [...values];
  return Array.from({ length: most }, (_, at) => {
    const from = Math.floor((at * values.length) / most);
    const to = Math.floor(((at + 1) * values.length) / most);
    return values.slice(from, to).reduce((sum, value) => sum + value, 0) / (to - from);
  });
}
