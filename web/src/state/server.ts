/**
 * Knows whether the server takes requests, and tries again where it does not.
 *
 * A ready server is asked seldom: requests themselves say when it is gone.
 */

import { type ApiError, ApiError as Refusal } from "../api/client";
import { propsOf, type WireHealth } from "../api/props";
import * as cells from "./cells";
import { context } from "./context";

const READY_MS = 20_000;
const LOADING_MS = 500;
const FIRST_GONE_MS = 1000;
const MAX_GONE_MS = 8000;

let isStarted = false;
let tries = 0;
let timer: ReturnType<typeof setTimeout> | undefined;
let asking: Promise<void> | null = null;

export function startServer(): void {
  if (isStarted) return;
  isStarted = true;
  void check();
  addEventListener("online", retryNow);
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) retryNow();
  });
}

/** Ask now, whatever the next try was meant to be. */
export function retryNow(): void {
  clearTimeout(timer);
  void check();
}

/** A request was answered: the server is there. */
export function answered(): void {
  tries = 0;
  const kind = cells.server.get().kind;
  if (kind === "gone" || kind === "full" || kind === "loading") retryNow();
}

/** A request failed: say why, and when the next try is. */
export function failedWith(error: ApiError): void {
  const { kind, message } = error.failure;
  if (kind === "gone") setGone();
  else if (kind === "full") setFull(message, error.wait);
  else if (kind === "key") cells.server.set({ kind: "key", isWrong: hasKey() });
  else if (kind === "loading") setLoading({ status: "loading", reason: message });
}

const hasKey = () => context.hasKey();

function setGone(): void {
  const state = cells.server.get();
  if (state.kind === "gone" && state.retryAt > Date.now()) return;
  const ms = Math.min(FIRST_GONE_MS * 2 ** tries++, MAX_GONE_MS);
  cells.server.set({ kind: "gone", retryAt: Date.now() + ms });
  again(ms);
}

function setFull(message: string, ms: number): void {
  const waiting = /([\d,]+) requests/.exec(message)?.[1]?.replaceAll(",", "");
  const number = waiting === undefined ? null : Number(waiting);
  cells.server.set({ kind: "full", waiting: number, retryAt: Date.now() + ms });
  again(ms);
}

function setLoading(health: WireHealth): void {
  if (health.status === "failed") {
    cells.server.set({ kind: "failed", message: health.reason ?? "" });
    again(MAX_GONE_MS);
    return;
  }
  const { reason, progress = null } = health;
  cells.server.set({ kind: "loading", reason: reason ?? "", progress });
  again(LOADING_MS);
}

function again(ms: number): void {
  clearTimeout(timer);
  timer = setTimeout(() => void check(), ms);
}

function check(): Promise<void> {
  asking ??= askServer().finally(() => {
    asking = null;
  });
  return asking;
}

async function askServer(): Promise<void> {
  try {
    const health = await healthOf();
    if (health.status !== "ok") {
      setLoading(health);
      return;
    }
    const props = propsOf(await context.client.json<Record<string, unknown>>("props"));
    tries = 0;
    const last = cells.server.get();
    const isSame = last.kind === "ready" && JSON.stringify(last.props) === JSON.stringify(props);
    if (!isSame) cells.server.set({ kind: "ready", props });
    cells.props.set(props);
    again(READY_MS);
  } catch (error) {
    if (error instanceof Refusal) failedWith(error);
    else setGone();
  }
}

/** /health says with 503, too, what it has to say. */
async function healthOf(): Promise<WireHealth> {
  const response = await context.client.askAny("health");
  try {
    return (await response.json()) as WireHealth;
  } catch {
    throw new Refusal("gone", "What answers is not the server."); // a proxy before it
  }
}

/** Wait for the next state in which requests are taken. Rejects where `signal` aborts. */
export async function waitUntilReady(signal: AbortSignal): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const finish = () => {
      const { kind } = cells.server.get();
      if (kind !== "ready" && !signal.aborted) return;
      unwatch();
      signal.removeEventListener("abort", finish);
      if (signal.aborted) reject(signal.reason);
      else resolve();
    };
    const unwatch = cells.server.watch(finish);
    signal.addEventListener("abort", finish);
    finish();
  });
}
