/** Parts of the state that the first paint does without, and everything after it needs. */

const RETRY_MS = 1000;

/** Load a part; where the server is gone, again until it is back. */
export async function arrived<Part>(load: () => Promise<Part>): Promise<Part> {
  for (;;) {
    try {
      return await load();
    } catch {
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}
