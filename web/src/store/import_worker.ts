/** Reads a file beside the page: each portion waits until the page has stored the one before. */

import { emptyReport, readChats } from "./reading";

addEventListener("message", async ({ data }: MessageEvent<Blob>) => {
  const report = emptyReport();
  for await (const portion of readChats(data, report)) {
    const stored = new Promise((resolve) => {
      addEventListener("message", resolve, { once: true });
    });
    postMessage({ portion, report });
    await stored;
  }
  postMessage({ report, isEnd: true });
});
