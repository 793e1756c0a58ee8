/** Exports chats to files, and takes files of chats in. Nothing existing is overwritten. */

import type { Chat, ChatId, ImportReport, Turn } from "../model/types";
import type { ReadChat } from "./formats";
import { unpack } from "./packing";
import { emptyReport, type Portion, readChats } from "./reading";
import type { Changes, Repository, Update } from "./repository";

const CHATS_AT_ONCE = 20;

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

/** Read a file of chats, and save them in portions. Returns what was read. */
export function importChats(
  save: (changes: Changes) => Promise<unknown>,
  file: Blob,
  progress: (share: number) => void = () => {},
): Promise<ImportReport> {
  const take = async ({ chats, share }: Portion): Promise<void> => {
    for (let k = 0; k < chats.length; k += CHATS_AT_ONCE) {
      await save(changesOf(chats.slice(k, k + CHATS_AT_ONCE)));
    }
    progress(share);
  };
  return typeof Worker === "undefined" ? readHere(file, take) : readInWorker(file, take);
}

async function readHere(
  file: Blob,
  take: (portion: Portion) => Promise<void>,
): Promise<ImportReport> {
  const report = emptyReport();
  for await (const portion of readChats(file, report)) await take(portion);
  return report;
}

function readInWorker(
  file: Blob,
  take: (portion: Portion) => Promise<void>,
): Promise<ImportReport> {
  const worker = new Worker(new URL("./import_worker.ts", import.meta.url), { type: "module" });
  type Message = { portion?: Portion; report: ImportReport; isEnd?: boolean };
  return new Promise<ImportReport>((resolve, reject) => {
    worker.onerror = (event) => reject(new Error(event.message || "the file cannot be read"));
    worker.onmessage = async ({ data }: MessageEvent<Message>) => {
      if (data.isEnd) return resolve(data.report);
      if (data.portion) await take(data.portion);
      worker.postMessage("stored");
    };
    worker.postMessage(file);
  }).finally(() => worker.terminate());
}

function changesOf(read: ReadChat[]): Changes {
  return {
    chats: read.map(({ chat }) => keeping(chat)),
    turns: read.flatMap(({ turns }) => turns.map(keeping)),
    tokens: read.flatMap(({ tokens }) =>
      tokens.map(([turn, packed]) => ({ turn, tokens: unpack(packed) })),
    ),
  };
}

/** A record that is there stays as it is; one that was deleted comes back. */
function keeping<Kept extends Chat | Turn>(record: Kept): Update<Kept> {
  const make = (stored: Kept | undefined): Kept => {
    if (!stored) return record;
    return stored.deleted === null ? stored : { ...stored, deleted: null };
  };
  return { id: record.id, make };
}
