/** Parts that the first paint does without: loaded when first shown, or when the browser is idle. */

import { type ComponentType, lazy } from "react";

import { searching, transfer } from "../../state/actions";

const waiting: (() => Promise<unknown>)[] = [transfer, searching];

/** As `lazy`; the part is also loaded once the page stands, so that it is there when the server is not. */
export function later<Props>(load: () => Promise<{ default: ComponentType<Props> }>) {
  waiting.push(load);
  return lazy(load);
}

/** Load all parts, one after the other. */
export async function loadAll(): Promise<void> {
  for (const load of waiting.splice(0)) {
    try {
      await load();
    } catch {
      return; // the server is gone; each is tried again when it is shown
    }
  }
}
