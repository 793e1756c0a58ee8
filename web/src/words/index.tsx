/** One dictionary, two languages: the one the reader chose, else the browser's. */

import { createContext, useContext } from "react";

import { en, type Words } from "./en";
import { zh } from "./zh";

export type { Words } from "./en";
export type Language = "en" | "zh";

const dictionaries: Record<Language, Words> = { en, zh };
const tags: Record<Language, string> = { en: "en", zh: "zh-Hans" };

/** Return the first of the browser's languages that the page has. */
export function browserLanguage(wished: readonly string[] = navigator.languages): Language {
  for (const tag of wished) {
    const short = tag.toLowerCase().split("-")[0];
    if (short === "en" || short === "zh") return short;
  }
  return "en";
}

export function words(language: Language): Words {
  return dictionaries[language];
}

/** Return the value of `lang` for the root element. */
export function languageTag(language: Language): string {
  return tags[language];
}

export const WordsContext = createContext<Words>(en);

export function useWords(): Words {
  return useContext(WordsContext);
}
