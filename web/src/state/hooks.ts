/** What views read. Each hook renders its component again only when its own value changes. */

import { useEffect } from "react";
import type {
  ChatId,
  ChatSummary,
  EngineState,
  LiveTurn,
  ReplayProgress,
  ServerProps,
  ServerState,
  Settings,
  StorageState,
  TurnId,
} from "../model";
import { useCell } from "./cell";
import type { ChatCell } from "./cells";
import * as cells from "./cells";
import { openChat } from "./library";

/** All chats: pinned first, then by the time of their last change. undefined: not read yet. */
export function useChats(): ChatSummary[] | undefined {
  return useCell(cells.chats);
}

/** A chat and the branch that is shown. undefined: not read yet; null: there is none. */
export function useChat(id: ChatId | null): ChatCell {
  useEffect(() => {
    if (id !== null) openChat(id);
  }, [id]);
  const value = useCell(cells.chat.of(id ?? ""));
  return id === null ? null : value;
}

/** An answer while it is written, painted every 40 ms; null when it is not. */
export function useStream(turn: TurnId): LiveTurn | null {
  return useCell(cells.live.of(turn));
}

/** A replay of this answer that is under way; null where there is none. */
export function useReplay(turn: TurnId): ReplayProgress | null {
  return useCell(cells.replay.of(turn));
}

export function useServer(): ServerState {
  return useCell(cells.server);
}

/** The engine, four times a second while a view watches; null before the first figures. */
export function useEngine(): EngineState | null {
  useEffect(() => {
    let isOver = false;
    let end = () => {};
    import("./engine").then(
      ({ watchEngine }) => {
        if (!isOver) end = watchEngine();
      },
      () => {}, // the server is gone, and its engine's figures with it
    );
    return () => {
      isOver = true;
      end();
    };
  }, []);
  return useCell(cells.engine);
}

/** What the server last said of itself; null before it said anything. */
export function useProps(): ServerProps | null {
  return useCell(cells.props);
}

export function useSettings(): Settings {
  return useCell(cells.settings);
}

export function useStorage(): StorageState {
  return useCell(cells.storage);
}
