/** What fields share: input methods, and height that follows the text. */

import type { KeyboardEvent } from "react";

/** Whether a key belongs to an input method: its Enter sends nothing. */
export function isComposing(event: KeyboardEvent): boolean {
  return event.nativeEvent.isComposing || event.keyCode === 229;
}

/** Fit a field's height to its text where the browser does not (`field-sizing`). */
export function fitToText(field: HTMLTextAreaElement | null): void {
  if (!field || CSS.supports("field-sizing", "content")) return;
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
}
