/** Keeps the focus inside what floats, and gives it back when that closes. */

import { type RefObject, useLayoutEffect } from "react";

const focusable =
  'button:not(:disabled), [href], input:not(:disabled), select, textarea, [tabindex]:not([tabindex="-1"])';

/**
 * Move the focus into an element while it is shown; Tab stays in it; Escape calls `close`.
 *
 * Focus goes to the element with `data-autofocus`, else to the first that can have it; before it is
 * painted, so that no key goes elsewhere once it is seen.
 */
export function useFocusInside(ref: RefObject<HTMLElement | null>, close: () => void): void {
  useLayoutEffect(() => {
    const root = ref.current;
    const before = document.activeElement;
    if (!root) return;
    const all = () =>
      [...root.querySelectorAll<HTMLElement>(focusable)].filter(
        (each) => each.offsetParent !== null,
      );
    (root.querySelector<HTMLElement>("[data-autofocus]") ?? all()[0] ?? root).focus({
      preventScroll: true,
    });

    const onTab = (event: KeyboardEvent) => {
      if (event.key !== "Tab") return;
      const inside = all();
      const first = inside[0];
      const last = inside.at(-1);
      if (!first || !last) return;
      const goesOut = event.shiftKey ? first : last;
      if (document.activeElement !== goesOut && root.contains(document.activeElement)) return;
      event.preventDefault();
      (event.shiftKey ? last : first).focus();
    };
    root.addEventListener("keydown", onTab);
    return () => {
      root.removeEventListener("keydown", onTab);
      const now = document.activeElement;
      const isFree = !now || now === document.body || root.contains(now);
      if (isFree && before instanceof HTMLElement && before.isConnected) {
        before.focus({ preventScroll: true });
      }
    };
  }, [ref]);

  useLayoutEffect(() => {
    const root = ref.current;
    const onEscape = (event: KeyboardEvent) => {
      if (event.key !== "Escape" || event.isComposing) return;
      event.stopPropagation();
      event.preventDefault();
      close();
    };
    root?.addEventListener("keydown", onEscape);
    return () => root?.removeEventListener("keydown", onEscape);
  }, [ref, close]);
}
