/**
 * Settings of this browser, in localStorage: the theme has to be known before the first paint.
 *
 * Where that is forbidden, settings last as long as the page.
 */

import { BUILT_IN, type Language, type Preset, type Settings } from "../model";

const NAME = "cullama-settings";

function wishedLanguage(): Language {
  const wished = typeof navigator === "undefined" ? [] : (navigator.languages ?? []);
  const first = wished.find((each) => /^(zh|en)\b/i.test(each));
  return first?.toLowerCase().startsWith("zh") ? "zh" : "en";
}

function defaults(): Settings {
  return {
    theme: "system",
    language: wishedLanguage(),
    enterSends: true,
    notes: true,
    singleKeys: true,
    presets: [...BUILT_IN],
  };
}

export function firstSettings(): Settings {
  const first = defaults();
  let stored: unknown;
  try {
    stored = JSON.parse(localStorage.getItem(NAME) ?? "{}");
  } catch {
    return first;
  }
  return merged(first, stored);
}

function merged(first: Settings, stored: unknown): Settings {
  if (typeof stored !== "object" || stored === null) return first;
  const values = stored as Partial<Settings>;
  const own = Array.isArray(values.presets) ? values.presets.filter(isPreset) : [];
  const { theme, language, enterSends, notes, singleKeys } = values;
  return {
    theme: theme === "light" || theme === "dark" ? theme : first.theme,
    language: language === "en" || language === "zh" ? language : first.language,
    enterSends: typeof enterSends === "boolean" ? enterSends : first.enterSends,
    notes: typeof notes === "boolean" ? notes : first.notes,
    singleKeys: typeof singleKeys === "boolean" ? singleKeys : first.singleKeys,
    presets: [...BUILT_IN, ...own],
  };
}

function isPreset(value: unknown): value is Preset {
  const preset = value as Partial<Preset> | null;
  return (
    typeof preset?.id === "string" &&
    typeof preset.name === "string" &&
    typeof preset.sampling === "object" &&
    preset.sampling !== null
  );
}

/** Keep settings; own presets alone, since the built-in ones may change with the program. */
export function keepSettings(settings: Settings): void {
  const kept = { ...settings, presets: settings.presets.filter((preset) => preset.isOwn) };
  try {
    localStorage.setItem(NAME, JSON.stringify(kept));
  } catch {
    // Forbidden or full: they last as long as the page.
  }
}

/** Call back when another tab changed the settings. */
export function watchSettings(changed: (settings: Settings) => void): () => void {
  const listen = (event: StorageEvent) => {
    if (event.key === NAME) changed(firstSettings());
  };
  window.addEventListener("storage", listen);
  return () => window.removeEventListener("storage", listen);
}
