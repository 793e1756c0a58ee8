/** Reads a file of chats in portions: in a worker, or where there is none, here. */

import type { ImportReport } from "../model/types";
import { type ReadChat, readChat } from "./formats";
import { closed, type Unit, UnitReader } from "./json_units";

const MAX_NOTES = 20;
/** A portion is stored in one transaction: large ones are faster, small ones tell sooner. */
const PORTION = 1 << 20; // characters

export interface Portion {
  chats: ReadChat[];
  /** Of the file, from 0 to 1. */
  share: number;
}

export function emptyReport(): ImportReport {
  return { chats: 0, turns: 0, damaged: 0, notes: [], stopped: null };
}

/** Yield the chats of a file; the report grows as they come. */
export async function* readChats(file: Blob, report: ImportReport): AsyncGenerator<Portion, void> {
  const reader = new UnitReader();
  const decoder = new TextDecoder();
  const source = file.stream().getReader();
  let done = 0;
  let chats: ReadChat[] = [];
  let length = 0;
  for (;;) {
    const { done: isEnd, value } = await source.read();
    const units = isEnd
      ? [...reader.feed(decoder.decode()), ...reader.end()]
      : reader.feed(decoder.decode(value, { stream: true }));
    done += value?.length ?? 0;
    const share = done / Math.max(1, file.size);
    for (const unit of units) {
      chats.push(...chatOf(unit, report));
      length += unit.text.length;
      if (length < PORTION) continue;
      yield { chats, share };
      chats = [];
      length = 0;
    }
    if (isEnd) yield { chats, share: 1 };
    if (isEnd) return;
  }
}

function chatOf(unit: Unit, report: ImportReport): ReadChat[] {
  const chat = readChat(parsed(unit));
  const isDamaged = unit.isCut ? !isWhole(unit.text) : (chat?.isDamaged ?? true);
  if (isDamaged) {
    report.damaged += 1;
    const what = chat ? `“${chat.chat.title}”: a part of it` : `“${unit.text.slice(0, 60)}”`;
    if (report.notes.length < MAX_NOTES) report.notes.push(`${what} cannot be read`);
  }
  if (!chat) return [];
  report.chats += 1;
  report.turns += chat.turns.length;
  return [chat];
}

/** The last line of a file of lines has no line end, and may be whole. */
function isWhole(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

function parsed(unit: Unit): unknown {
  try {
    return JSON.parse(unit.text);
  } catch {
    try {
      return JSON.parse(closed(unit.text) ?? "null");
    } catch {
      return null;
    }
  }
}
