/** One dictionary, two languages. English is in the page; the other is loaded where it is wished. */

import { createContext, useContext } from "react";

import type { Language } from "../model";
import { en, type Words } from "./en";

export type { Words } from "./en";

const tags: Record<Language, string> = { en: "en", zh: "zh-Hans" };

const loaded: Record<Language, Promise<Words> | undefined> = {
  en: Promise.resolve(en),
  zh: undefined,
};

/** Return a language's words; the same promise each time. */
export function loadWords(language: Language): Promise<Words> {
  loaded[language] ??= import("./zh").then((module) => module.zh);
  return loaded[language];
}

/** Return the value of `lang` for the root element. */
export function languageTag(language: Language): string {
  return tags[language];
}

export const WordsContext = createContext<Words>(en);

export function useWords(): Words {
  return useContext(WordsContext);
}
