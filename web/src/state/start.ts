/** Starts the page's state: reads the browser's storage, asks the server, goes on with streams. */

import { arrived } from "./arrive";
import * as cells from "./cells";
import { context } from "./context";
import { flushDrafts } from "./drafts";
import { startLibrary } from "./library";
import { startServer } from "./server";
import { watchSettings } from "./settings";
import { loadTurnActions } from "./turn_actions_later";

/** Deleted chats and turns are kept this long: longer than any toast offers to undo. */
const PURGE_MS = 3600_000;

let started: Promise<void> | null = null;

/** Start once; later calls wait for the first. */
export function start(): Promise<void> {
  started ??= startAll();
  return started;
}

async function startAll(): Promise<void> {
  watchSettings((settings) => cells.settings.set(settings));
  startServer();
  addEventListener("pagehide", flushDrafts);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) flushDrafts();
  });
  void loadTurnActions();
  const { Repository } = await arrived(() => import("../store/repository"));
  const repository = await Repository.open();
  context.open(repository);
  const unfinished = await startLibrary();
  await loadTurnActions();
  const { startStreams, resumeAll } = await arrived(() => import("./streams"));
  startStreams();
  resumeAll(unfinished);
  await repository.purge(Date.now() - PURGE_MS).catch(() => {});
}
