/** The times of the last steps as bars, beside the model's name. */

import { useEngine } from "../../state";

const BARS = 12;
const HEIGHT = 18;

export function StepSpark() {
  const engine = useEngine();
  const steps = engine?.steps.slice(-BARS) ?? [];
  const longest = Math.max(...steps.map((step) => step.seconds), 0);
  if (longest === 0) return null;
  return (
    <svg className="spark" viewBox="0 0 56 18" aria-hidden="true">
      {steps.map((step, at) => {
        const height = Math.max(1.5, (step.seconds / longest) * HEIGHT);
        return (
          <rect
            key={at}
            x={at * 4.7}
            y={HEIGHT - height}
            width="3"
            height={height}
            rx=".5"
            fill="var(--accent)"
            opacity={at > BARS - 4 ? 1 : 0.45}
          />
        );
      })}
    </svg>
  );
}
