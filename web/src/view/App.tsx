/** The whole page: words, theme, and what is open; then the frame. */

import { useEffect } from "react";

import { useSettings } from "../state";
import { languageTag, WordsContext, words } from "../words";
import { Frame } from "./frame/Frame";
import { useTheme } from "./frame/theme";
import { UiContext, useUiState } from "./ui";

export function App() {
  const settings = useSettings();
  const ui = useUiState();
  useTheme(settings.theme);
  useEffect(() => {
    document.documentElement.lang = languageTag(settings.language);
  }, [settings.language]);
  return (
    <WordsContext value={words(settings.language)}>
      <UiContext value={ui}>
        <Frame />
      </UiContext>
    </WordsContext>
  );
}
