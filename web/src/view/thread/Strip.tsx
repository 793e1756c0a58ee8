/** One bar a token, tall where it was surprising; longer answers show the mean of each group. */

import { memo } from "react";

const WIDTH = 150;
const HEIGHT = 26;
const BARS = 75; // at most: two pixels each
const SHORT = 38; // a bar's width is that of so many at least
const TALL = 9; // pixels: from here on it is copper

export const Strip = memo(function Strip({ values }: { values: readonly number[] }) {
  const bars = grouped(values, BARS);
  const step = WIDTH / Math.max(SHORT, bars.length);
  return (
    <svg className="strip" viewBox={`0 0 ${WIDTH} ${HEIGHT}`} aria-hidden="true">
      {bars.map((value, at) => {
        const height = Math.max(1.2, value * (HEIGHT - 2));
        return (
          <rect
            key={at}
            x={at * step}
            y={HEIGHT - height}
            width={Math.max(1, step - 1)}
            height={height}
            fill={height > TALL ? "var(--copper)" : "var(--edge)"}
          />
        );
      })}
    </svg>
  );
});

function grouped(values: readonly number[], most: number): number[] {
  if (values.length <= most) return [...values];
  return Array.from({ length: most }, (_, at) => {
    const from = Math.floor((at * values.length) / most);
    const to = Math.floor(((at + 1) * values.length) / most);
    return values.slice(from, to).reduce((sum, value) => sum + value, 0) / (to - from);
  });
}
