/** Figures as words; what is not known is a dash, never a guess. */

export const UNKNOWN = "–";

export function rate(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return UNKNOWN;
  return value >= 100 ? value.toFixed(0) : value.toFixed(1);
}

export function seconds(value: number | null | undefined): string {
  if (value === null || value === undefined) return UNKNOWN;
  return value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

/** A share as per cent with its sign, set as the page sets it: "46.2 %". */
export function percent(share: number, digits = 1): string {
  return `${(share * 100).toFixed(digits)} %`;
}
