/** Reads a file and stores its chats beside the page, which hears how far it came. */

import { Repository } from "./repository";
import { takeChats } from "./taking";

async function take(file: Blob, name: string): Promise<void> {
  const repository = await Repository.open(name);
  const report = await takeChats(repository, file, (soFar, share) => {
    postMessage({ report: soFar, share });
  });
  postMessage({ report, isEnd: true });
}

addEventListener(
  "message",
  ({ data }: MessageEvent<{ file: Blob; name: string }>) => void take(data.file, data.name),
  { once: true },
);
