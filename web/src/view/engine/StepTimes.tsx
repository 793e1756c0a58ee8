/** The time of the last steps as bars: with prompt tokens in copper, decode alone in green. */

import type { EngineStep } from "../../model";
import { useWords } from "../../words";
import { UNKNOWN } from "../thread/numbers";

const BARS = 60;
const LEFT = 34;
const TOP = 22;
const BOTTOM = 122;
const STEP = 6.8;

export function StepTimes({ steps }: { steps: readonly EngineStep[] }) {
  const words = useWords();
  const longest = Math.max(...steps.map((step) => step.seconds), 0);
  const top = roundUp(longest * 1000 || 100); // milliseconds
  const decode = median(steps.filter((step) => step.promptTokens === 0));
  const prefill = median(steps.filter((step) => step.promptTokens > 0));
  return (
    <>
      <h2>
        {words.stepTime}
        <small>{words.lastSteps(steps.length)}</small>
      </h2>
      <svg className="plot" viewBox="0 0 450 140" role="img" aria-label={words.stepTime}>
        <path className="ax" d={`M${LEFT} ${BOTTOM}h414M${LEFT} 72h414M${LEFT} ${TOP}h414`} />
        {[0, top / 2, top].map((value, at) => (
          <text key={value} x={LEFT - 6} y={BOTTOM + 4 - at * 50} textAnchor="end">
            {axis(value)}
          </text>
        ))}
        <text x="444" y="14" textAnchor="end">
          ms
        </text>
        {steps.slice(-BARS).map((step, at) => {
          const height = Math.max(1, ((step.seconds * 1000) / top) * (BOTTOM - TOP));
          return (
            <rect
              key={at}
              x={LEFT + at * STEP}
              y={BOTTOM - height}
              width="5.4"
              height={height}
              rx="1"
              fill={step.promptTokens > 0 ? "var(--copper)" : "var(--accent)"}
            />
          );
        })}
      </svg>
      <p className="keys">
        <span>
          <i className="sw dec" />
          {words.stepDecode}: {decode}
        </span>
        <span>
          <i className="sw" />
          {words.stepPrompt}: {prefill}
        </span>
      </p>
    </>
  );
}

/** Up to 1, 2 or 5 of a power of ten. */
function roundUp(value: number): number {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((each) => each * power).find((each) => each >= value) ?? value;
}

function axis(value: number): string {
  return value >= 10 ? value.toFixed(0) : String(Number(value.toPrecision(2)));
}

function median(steps: readonly EngineStep[]): string {
  const sorted = steps.map((step) => step.seconds * 1000).sort((a, b) => a - b);
  const middle = sorted[Math.floor(sorted.length / 2)];
  if (middle === undefined) return UNKNOWN;
  return `${middle >= 10 ? middle.toFixed(0) : middle.toPrecision(2)} ms`;
}
