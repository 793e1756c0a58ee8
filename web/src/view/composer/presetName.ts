/** The name of a preset: built-in ones have theirs in the reader's language. */

import type { Preset } from "../../model";
import type { Words } from "../../words";

export function presetName(id: string | null, presets: readonly Preset[], words: Words): string {
  if (id === "precise") return words.precise;
  if (id === "balanced") return words.balanced;
  if (id === "free") return words.free;
  return presets.find((preset) => preset.id === id)?.name ?? words.mine;
}
