/** Follows the engine while a view watches it and the page can be seen. */

import { ConnectionLost, EngineFollower, readEvents, type WireEngine } from "../api";
import type { ChatId, TurnId } from "../model";
import * as cells from "./cells";
import { context } from "./context";
import { getTurn } from "./library";
import { turnOfRequest } from "./streams";
import { wait } from "./wait";

const RETRY_MS = 2000;
/** Four events a second come: after this long the figures are old. */
const SILENT_MS = 3000;

let watchers = 0;
let connection: AbortController | null = null;

/** Follow until the returned function is called. Several views share one connection. */
export function watchEngine(): () => void {
  watchers += 1;
  if (watchers === 1) document.addEventListener("visibilitychange", update);
  update();
  return () => {
    watchers -= 1;
    if (watchers === 0) document.removeEventListener("visibilitychange", update);
    update();
  };
}

function update(): void {
  const isWanted = watchers > 0 && !document.hidden;
  if (isWanted && !connection) {
    connection = new AbortController();
    void follow(connection.signal);
  } else if (!isWanted && connection) {
    connection.abort();
    connection = null;
    pause();
  }
}

async function follow(signal: AbortSignal): Promise<void> {
  const follower = new EngineFollower();
  while (!signal.aborted) {
    try {
      const response = await context.client.ask("engine", { signal });
      for await (const events of readEvents(response, SILENT_MS)) {
        const wire = joined(events.map(({ data }) => JSON.parse(data) as WireEngine));
        if (signal.aborted) return;
        cells.engine.set(follower.next(wire, performance.now() / 1000, ownerOf));
      }
    } catch (error) {
      if (signal.aborted) return;
      pause();
      if (!(error instanceof ConnectionLost)) await wait(RETRY_MS, signal).catch(() => {});
      else await wait(RETRY_MS / 4, signal).catch(() => {});
    }
  }
}

function ownerOf(request: number): { turn: TurnId; chat: ChatId } | null {
  const turn = getTurn(turnOfRequest(request) ?? "");
  return turn ? { turn: turn.id, chat: turn.chat } : null;
}

/** The last of several events, with the passes of all. */
function joined(events: WireEngine[]): WireEngine {
  return { ...events.at(-1)!, passes: events.flatMap((event) => event.passes) };
}

/** The figures that are shown are old. */
function pause(): void {
  cells.engine.update((state) => (state ? { ...state, isLive: false } : state));
}
