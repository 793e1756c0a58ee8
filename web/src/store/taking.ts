/**
 * Stores the chats of a file, portion by portion: in a worker, or where there is none, in the page.
 *
 * What was stored stays, whatever ends it: the report says how far it came, and why no further.
 */

import type { Chat, ImportReport, Turn } from "../model/types";
import type { ReadChat } from "./formats";
import { emptyReport, readChats } from "./reading";
import { type Changes, type Repository, stateOf, type Update } from "./repository";

export type Told = (report: ImportReport, share: number) => void;

export async function takeChats(
  repository: Repository,
  file: Blob,
  told: Told,
  signal?: AbortSignal,
): Promise<ImportReport> {
  const report = emptyReport();
  let kept = emptyReport();
  for await (const { chats, share } of readChats(file, report)) {
    if (signal?.aborted) return { ...kept, stopped: "cancelled" };
    try {
      await repository.saveAll(changesOf(chats));
    } catch (error) {
      return { ...kept, stopped: stateOf(error).kind };
    }
    kept = structuredClone(report);
    told(kept, share);
  }
  return kept;
}

function changesOf(read: ReadChat[]): Changes {
  return {
    chats: read.map(({ chat }) => keeping(chat)),
    turns: read.flatMap(({ turns }) => turns.map(keeping)),
    tokens: read.flatMap(({ tokens }) => tokens.map(([turn, packed]) => ({ turn, packed }))),
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
