/** The state of the page: what views watch. Actions write it, hooks read it. */

import type {
  ChatSummary,
  EngineState,
  LiveTurn,
  ReplayProgress,
  ServerProps,
  ServerState,
  Settings,
  StorageState,
} from "../model";
import { Cell, Cells } from "./cell";
import type { ChatView } from "./contract";
import { firstSettings } from "./settings";

/** undefined: not read from the browser's storage yet. null: there is no such chat. */
export type ChatCell = ChatView | null | undefined;

export const chats = new Cell<ChatSummary[] | undefined>(undefined);
export const chat = new Cells<ChatCell>(undefined);
export const live = new Cells<LiveTurn | null>(null);
export const replay = new Cells<ReplayProgress | null>(null);
export const server = new Cell<ServerState>({ kind: "connecting" });
/** What the server last said of itself: of one that is gone or loads again, too. */
export const props = new Cell<ServerProps | null>(null);
export const engine = new Cell<EngineState | null>(null);
export const storage = new Cell<StorageState>({ kind: "ok", isPersistent: false, usedBytes: null });
export const settings = new Cell<Settings>(firstSettings());
