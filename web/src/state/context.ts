/** What the state works with: the repository and the client. Set once, by `start`; by tests, anew. */

import { Client, ownBase } from "../api/client";
import type { Repository } from "../store/repository";

const KEY = "cullama-key";
let key = firstKey();

function firstKey(): string {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

/** The API key of this tab. */
export function getKey(): string {
  return key;
}

/** Keep the API key in this tab alone. */
export function keepKey(value: string): void {
  key = value.trim();
  try {
    sessionStorage.setItem(KEY, key);
  } catch {
    // Forbidden: it lasts as long as the page.
  }
}

interface Context {
  client: Client;
  hasKey: () => boolean;
  /** Resolved when the browser's storage is open, or cannot be. */
  opened: Promise<Repository>;
  open: (repository: Repository) => void;
}

let open: (repository: Repository) => void = () => {};
const opened = new Promise<Repository>((resolve) => {
  open = resolve;
});

export const context: Context = {
  client: new Client(typeof document === "undefined" ? "http://localhost/" : ownBase(), getKey),
  hasKey: () => key !== "",
  opened,
  open,
};
