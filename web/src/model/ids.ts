/** Makes ids and seeds. `crypto.randomUUID` is missing on plain http, `getRandomValues` is not. */

export function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(36).padStart(2, "0")).join("");
}

/** A seed that people can read and type: below 2^31. */
export function newSeed(): number {
  return crypto.getRandomValues(new Uint32Array(1))[0]! >>> 1;
}
