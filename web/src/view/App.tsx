/** The whole page: words, theme, and what is open; then the frame. */

import { type ReactNode, Suspense, use, useEffect } from "react";

import { useSettings } from "../state";
import { languageTag, loadWords, WordsContext } from "../words";
import { Frame } from "./frame/Frame";
import { useTheme } from "./frame/theme";
import { UiActionsContext, UiContext, useUiState } from "./ui";

export function App() {
  const settings = useSettings();
  const { ui, uiActions } = useUiState();
  useTheme(settings.theme);
  return (
    <Suspense>
      <Worded>
        <UiActionsContext value={uiActions}>
          <UiContext value={ui}>
            <Frame />
          </UiContext>
        </UiActionsContext>
      </Worded>
    </Suspense>
  );
}

/** Give the words of the reader's language to what is inside. */
function Worded({ children }: { children: ReactNode }) {
  const { language } = useSettings();
  const words = use(loadWords(language));
  useEffect(() => {
    document.documentElement.lang = languageTag(language);
  }, [language]);
  return <WordsContext value={words}>{children}</WordsContext>;
}
