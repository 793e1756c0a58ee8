/** Reads a file beside the page: each portion waits until the page has stored the one before. */

import { emptyReport, readChats } from "./reading";

const next = (): Promise<MessageEvent> =>
  new Promise((resolve) => {
    addEventListener("message", resolve, { once: true });
  });

async function read(file: Blob): Promise<void> {
  const report = emptyReport();
  for await (const portion of readChats(file, report)) {
    const stored = next();
    postMessage({ portion, report });
    await stored;
  }
  postMessage({ report, isEnd: true });
}

void next().then(({ data }: MessageEvent<Blob>) => read(data));
