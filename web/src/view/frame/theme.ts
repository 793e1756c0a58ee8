/** Light or dark: the reader's choice, else the system's. */

import { useEffect } from "react";

import type { Theme } from "../../model";

export function isDark(theme: Theme): boolean {
  if (theme !== "system") return theme === "dark";
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

/** Put the theme on the root element, and the page's colour into the browser's frame. */
export function useTheme(theme: Theme): void {
  useEffect(() => {
    const root = document.documentElement;
    if (theme === "system") delete root.dataset.theme;
    else root.dataset.theme = theme;
    const paint = () => {
      const color = isDark(theme) ? "#131615" : "#FBFBF8";
      document.querySelector('meta[name="theme-color"]')?.setAttribute("content", color);
    };
    paint();
    const query = matchMedia("(prefers-color-scheme: dark)");
    query.addEventListener("change", paint);
    return () => query.removeEventListener("change", paint);
  }, [theme]);
}
