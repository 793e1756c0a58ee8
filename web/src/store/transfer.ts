/** Exports chats to files, and takes files of chats in. Nothing existing is overwritten. */

import type { ChatId, ImportReport } from "../model/types";
import { emptyReport } from "./reading";
import type { Repository } from "./repository";
import { type Told, takeChats } from "./taking";

/** One object with all chats, or one chat a line: with their turns, settings and tokens. */
export async function exportChats(
  repository: Repository,
  form: "json" | "jsonl",
  only?: ChatId,
): Promise<Blob> {
  const parts: string[] = [];
  for (const chat of await repository.chats()) {
    if (chat.deleted !== null || (only !== undefined && chat.id !== only)) continue;
    const turns = (await repository.turns(chat.id)).filter((turn) => turn.deleted === null);
    const tokens: Record<string, unknown> = {};
    for (const turn of turns) {
      const packed = turn.hasTokens ? await repository.packedTokens(turn.id) : null;
      if (packed) tokens[turn.id] = packed;
    }
    parts.push(JSON.stringify({ chat, turns, tokens }));
  }
  if (form === "jsonl") return new Blob(parts.map((part) => `${part}\n`));
  const body = parts.flatMap((part, k) => (k ? [",\n", part] : [part]));
  return new Blob(['{"kind":"cullama page","version":1,"chats":[\n', ...body, "\n]}\n"]);
}

/**
 * Read a file of chats, and store them. Never rejects for want of room: the report says so.
 *
 * @param told hears how far it came.
 * @param signal ends it; what was stored until then stays.
 */
export function importChats(
  repository: Repository,
  file: Blob,
  told: Told = () => {},
  signal?: AbortSignal,
): Promise<ImportReport> {
  const isHere = typeof Worker === "undefined" || repository.storage.kind === "forbidden";
  if (isHere) return takeChats(repository, file, told, signal);
  const worker = new Worker(new URL("./import_worker.ts", import.meta.url), { type: "module" });
  let last = emptyReport();
  type Message = { report: ImportReport; share: number; isEnd?: boolean };
  return new Promise<ImportReport>((resolve, reject) => {
    signal?.addEventListener("abort", () => resolve({ ...last, stopped: "cancelled" }));
    worker.onerror = (event) => reject(new Error(event.message || "the file cannot be read"));
    worker.onmessage = ({ data }: MessageEvent<Message>) => {
      last = data.report;
      if (data.isEnd) resolve(last);
      else told(last, data.share);
    };
    worker.postMessage({ file, name: repository.name });
  }).finally(() => worker.terminate());
}
