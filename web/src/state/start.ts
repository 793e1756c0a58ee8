/** Starts the page's state: reads the browser's storage, asks the server, goes on with streams. */

import { Repository } from "../store/repository";
import { flushDrafts } from "./actions";
import * as cells from "./cells";
import { context } from "./context";
import { startLibrary } from "./library";
import { startServer } from "./server";
import { watchSettings } from "./settings";
import { resumeAll, startStreams } from "./streams";

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
  const repository = await Repository.open();
  context.open(repository);
  const unfinished = await startLibrary();
  startStreams();
  resumeAll(unfinished);
  addEventListener("pagehide", flushDrafts);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) flushDrafts();
  });
  await repository.purge(Date.now() - PURGE_MS).catch(() => {});
}
