/** The roofline of this machine, both axes in powers of ten, and where decode and prefill stand. */

import type { EngineState, RooflinePoint } from "../../model";
import { useWords, type Words } from "../../words";

const BOX = { left: 44, right: 440, top: 24, bottom: 210 };

export function Roofline({ engine }: { engine: EngineState | null }) {
  const words = useWords();
  const roofline = engine?.roofline;
  if (!roofline?.points?.length) {
    return (
      <>
        <h2>
          {words.roofline}
          <small>{words.notMeasured}</small>
        </h2>
        <p className="hintline">{words.rooflineHow}</p>
      </>
    );
  }
  const { bandwidth, compute, points } = roofline;
  const ridge = compute / bandwidth;
  const scale = scales(ridge, compute, points);
  const at = (intensity: number) => Math.min(compute, intensity * bandwidth);
  const [x0, x1] = scale.domain;
  const decode = points.find((point) => point.kind === "decode");
  const prefill = points.find((point) => point.kind === "prefill");
  return (
    <>
      <h2>
        {words.roofline}
        <small>{words.measuredHere}</small>
      </h2>
      <svg className="plot" viewBox="0 0 450 236" role="img" aria-label={spoken(points, words)}>
        <text x={BOX.left} y="14">
          {unit(compute).name}
        </text>
        <path className="ax" fill="none" d={`M${BOX.left} ${BOX.top}V${BOX.bottom}H${BOX.right}`} />
        {scale.ticks.map((tick) => (
          <g key={tick}>
            <path
              className="ax"
              strokeDasharray="2 4"
              d={`M${scale.x(tick)} ${BOX.bottom}V${scale.y(at(tick))}`}
            />
            <text x={scale.x(tick)} y="228" textAnchor="middle">
              {tick}
            </text>
          </g>
        ))}
        <path
          fill="var(--soft)"
          opacity=".6"
          d={`M${scale.x(x0)} ${scale.y(at(x0))}L${scale.x(ridge)} ${scale.y(compute)}V${BOX.bottom}H${scale.x(x0)}z`}
        />
        <path
          className="roof"
          d={`M${scale.x(x0)} ${scale.y(at(x0))}L${scale.x(ridge)} ${scale.y(compute)}H${scale.x(x1)}`}
        />
        <text x={scale.x(x0) + 8} y={scale.y(at(x0)) - 22}>
          {(bandwidth / 1e9).toFixed(1)} GB/s
        </text>
        <text x={BOX.right} y={scale.y(compute) - 8} textAnchor="end">
          {Number((compute / unit(compute).size).toPrecision(3))} {unit(compute).name}
        </text>
        {points.map((point) => (
          <Point
            key={point.kind}
            point={point}
            x={scale.x(point.intensity)}
            y={scale.y(point.flops)}
          />
        ))}
        <text x={BOX.right} y="228" textAnchor="end">
          {words.flopPerByte}
        </text>
      </svg>
      {decode && <Gauge words={words.bandwidthShare} share={decode.share} kind="" />}
      {prefill && <Gauge words={words.computeShare} share={prefill.share} kind="pre" />}
    </>
  );
}

function unit(flops: number): { size: number; name: string } {
  return flops >= 1e11 ? { size: 1e12, name: "TFLOP/s" } : { size: 1e9, name: "GFLOP/s" };
}

/** Places on the plot; the domain holds all points and a little more than the ridge. */
function scales(ridge: number, compute: number, points: readonly RooflinePoint[]) {
  const x0 = 10 ** Math.floor(Math.log10(Math.min(1, ...points.map((point) => point.intensity))));
  const x1 = 10 * Math.max(ridge, ...points.map((point) => point.intensity));
  const y1 = compute * 2;
  const y0 = Math.min(compute / 100, ...points.map((point) => point.flops / 2));
  const part = (value: number, from: number, to: number) =>
    Math.log(Math.max(value, from) / from) / Math.log(to / from);
  const ticks: number[] = [];
  for (let tick = x0; tick < x1 / 2 && ticks.length < 6; tick *= 10) ticks.push(tick);
  return {
    domain: [x0, x1] as const,
    ticks,
    x: (value: number) => BOX.left + part(value, x0, x1) * (BOX.right - BOX.left),
    y: (value: number) => BOX.bottom - part(value, y0, y1) * (BOX.bottom - BOX.top),
  };
}

/** Decode is a disc, one text alone a ring, prefill a diamond. */
function Point({ point, x, y }: { point: RooflinePoint; x: number; y: number }) {
  const words = useWords();
  const share = `${Math.round(point.share * 100)} %`;
  const isNearEdge = x > 330;
  const label = {
    x: isNearEdge ? x - 12 : x + 12,
    y: y + 12,
    textAnchor: isNearEdge ? ("end" as const) : ("start" as const),
  };
  if (point.kind === "single") {
    return (
      <g>
        <circle cx={x} cy={y} r="4.5" fill="var(--bg)" stroke="var(--accent)" strokeWidth="1.5" />
        <text {...label}>
          {words.oneText} {share}
        </text>
      </g>
    );
  }
  return (
    <g>
      {point.kind === "decode" ? (
        <circle cx={x} cy={y} r="5.5" fill="var(--accent)" />
      ) : (
        <rect
          x={x - 5}
          y={y - 5}
          width="10"
          height="10"
          transform={`rotate(45 ${x} ${y})`}
          fill="var(--copper)"
        />
      )}
      <text {...label} className="strong">
        {point.kind === "decode" ? words.decode : words.prefill} {share}
      </text>
    </g>
  );
}

function spoken(points: readonly RooflinePoint[], words: Words): string {
  const names = { decode: words.decode, prefill: words.prefill, single: words.oneText };
  const each = points.map((point) => `${names[point.kind]} ${Math.round(point.share * 100)} %`);
  return [words.roofline, ...each].join(", ");
}

function Gauge({ words, share, kind }: { words: string; share: number; kind: string }) {
  return (
    <div className={`gauge ${kind}`}>
      <span>{words}</span>
      <b>{Math.round(share * 100)} %</b>
      <span className="track">
        <i style={{ width: `${Math.min(1, share) * 100}%` }} />
      </span>
    </div>
  );
}
