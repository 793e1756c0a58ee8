/**
 * Writes one answer: asks the server, follows its stream through lost connections, shows what came
 * every 40 ms and stores it every second.
 *
 * A stream belongs to the tab that holds its lock; other tabs may read it along, and store nothing.
 */

import {
  Answer,
  ApiError,
  ConnectionLost,
  readEvents,
  type WireBody,
  type WireChunk,
} from "../api";
import type { Beginning } from "../api/wire";
import type { FinishReason, LiveTurn, TokenRecord, Turn, TurnStatus } from "../model";
import * as cells from "./cells";
import { context } from "./context";
import { change, getTree, getTurn, turnUpdate } from "./library";
import { ask, fitPrompt, mayOverflow, requestOf } from "./prompts";
import { answered, failedWith, waitUntilReady } from "./server";
import { wait } from "./wait";

const PAINT_MS = 40;
const STRIP_MS = 200;
const STORE_MS = 1000;
const MAX_EMPTY = 3; // connections in a row that end without an event

export class Writer {
  readonly #id: string;
  readonly #chat: string;
  readonly #beginning: Beginning;
  readonly #answer: Answer;
  readonly #stopped = new AbortController();
  /** Of the connection in use, to be made again when it seems dead. */
  #connection = new AbortController();
  #streamId: string | null;
  #numEvents: number;
  #hasStored: boolean;
  /** Whether this tab stores what comes. */
  isOwner = true;
  #painted = 0;
  #strip: { since: number; values: readonly number[] } = { since: -STRIP_MS, values: [] };
  #paintTimer: ReturnType<typeof setTimeout> | undefined;
  #storeTimer: ReturnType<typeof setTimeout> | undefined;
  #isReconnecting = false;
  /** Whether the server said that the prompt is longer than the context. */
  #isTooLong = false;
  #lastByte = performance.now();
  /** When it was asked for; null: by an earlier page. */
  #asked: number | null = null;
  /** When counting of tokens began, and how many there were: for their rate. */
  #counted: { since: number; tokens: number } | null = null;

  constructor(turn: Turn, begun: TokenRecord[], beginning: Beginning = {}) {
    this.#id = turn.id;
    this.#chat = turn.chat;
    this.#beginning = beginning;
    this.#streamId = turn.streamId;
    this.#numEvents = turn.streamEvents;
    this.#hasStored = turn.streamEvents > 0;
    this.#answer = beginning.echo
      ? new Answer(turn.streamEvents > 0 ? { ...turn, tokens: begun } : {})
      : new Answer({ ...turn, tokens: begun });
    this.#answer.seed = turn.seed;
    this.#paint();
  }

  /** Of the engine's view; null: not known. */
  get engineRequest(): number | null {
    return this.#answer.engineRequest;
  }

  /** The reader's wish: what came stays, and can be continued. */
  stop(): void {
    this.#stopped.abort();
    this.#connection.abort();
    const id = this.#streamId;
    if (id !== null) {
      context.client.ask(`v1/streams/${id}`, { method: "DELETE" }).catch(() => {
        // It is gone already, or ends by itself: nobody reads it.
      });
    }
  }

  /** Another tab has ended it: what came here and is not stored yet is stored. */
  leave(): void {
    this.#stopped.abort();
    this.#connection.abort();
  }

  /** The device woke up, or the network changed: a silent connection is made anew. */
  wake(silentMs: number): void {
    if (performance.now() - this.#lastByte > silentMs) this.#connection.abort();
  }

  /** Store what came so far. */
  flush(): void {
    if (this.isOwner && !this.#stopped.signal.aborted) this.#store("writing", null);
  }

  async run(): Promise<void> {
    try {
      await this.#follow();
      this.#end();
    } catch (error) {
      this.#endWith(error);
    } finally {
      clearTimeout(this.#paintTimer);
      clearTimeout(this.#storeTimer);
      cells.live.of(this.#id).set(null);
    }
  }

  /** Read to the end, over as many connections as it takes. */
  async #follow(): Promise<void> {
    for (let tries = 0; ; tries++) {
      this.#connection = new AbortController();
      const signal = AbortSignal.any([this.#connection.signal, this.#stopped.signal]);
      try {
        const response = await this.#connect(signal);
        answered();
        this.#counted = null;
        for await (const events of readEvents(response)) {
          tries = 0;
          this.#lastByte = performance.now();
          this.#isReconnecting = false;
          for (const event of events) this.#take(event.data, event.number);
          this.#schedule();
        }
        return;
      } catch (error) {
        if (this.#stopped.signal.aborted) throw error;
        const isOurs = this.#connection.signal.aborted; // to be made again
        if (error instanceof ApiError && error.failure.kind === "context" && !this.#isTooLong) {
          this.#isTooLong = true; // the oldest turns are left out, as many as it takes
          continue;
        }
        if (!isOurs && !isPassing(error)) throw error;
        if (error instanceof ConnectionLost && error.isClean && tries >= MAX_EMPTY) {
          return; // the server keeps the stream, and nothing more comes of it
        }
        // Where the queue is full, or a model is loading, nothing was lost.
        this.#isReconnecting = !(error instanceof ApiError) || error.failure.kind === "gone";
        this.#paint();
        if (!isOurs || tries > 0) await this.#pause(error, tries);
      }
    }
  }

  async #connect(signal: AbortSignal): Promise<Response> {
    if (this.#streamId !== null) {
      return context.client.ask(`v1/streams/${this.#streamId}?from=${this.#numEvents}`, { signal });
    }
    const body = await this.#body(signal);
    this.#asked = performance.now();
    return ask(body, signal);
  }

  async #body(signal: AbortSignal): Promise<WireBody> {
    let turn = getTurn(this.#id)!;
    if (this.#isTooLong || mayOverflow(getTree(this.#chat)!, turn)) {
      const leftOut = await fitPrompt(getTree(this.#chat)!, turn, signal);
      if (leftOut !== turn.leftOut) {
        void change({ turns: [turnUpdate(this.#id, (stored) => ({ ...stored, leftOut }))] });
        turn = getTurn(this.#id)!;
      }
    }
    return requestOf(getTree(this.#chat)!, turn, this.#beginning);
  }

  /** Wait before the next try: as long as the server says, or until it answers again. */
  async #pause(error: unknown, tries: number): Promise<void> {
    if (error instanceof ApiError) {
      failedWith(error);
      await waitUntilReady(this.#stopped.signal);
    } else {
      await wait(Math.min(200 * 2 ** tries, 4000), this.#stopped.signal);
    }
  }

  #take(data: string, number: number | null): void {
    this.#numEvents = number ?? this.#numEvents + 1;
    let chunk: WireChunk;
    try {
      chunk = JSON.parse(data) as WireChunk;
    } catch {
      return; // of a proxy: no event of the server's
    }
    const before = this.#answer.numTokens;
    this.#answer.add(chunk);
    if (this.#streamId === null && this.#answer.id !== null) {
      this.#streamId = this.#answer.id;
      this.#store("writing", null);
    }
    if (this.#answer.numTokens > before) {
      if (this.#asked !== null)
        this.#answer.firstToken ??= (performance.now() - this.#asked) / 1000;
      this.#counted ??= { since: performance.now(), tokens: this.#answer.numTokens };
    }
  }

  #schedule(): void {
    const now = performance.now();
    if (now - this.#painted >= PAINT_MS) this.#paint();
    else this.#paintTimer ??= setTimeout(() => this.#paint(), PAINT_MS - (now - this.#painted));
    this.#storeTimer ??= setTimeout(() => {
      this.#storeTimer = undefined;
      this.#store("writing", null);
    }, STORE_MS);
  }

  #paint(): void {
    clearTimeout(this.#paintTimer);
    this.#paintTimer = undefined;
    this.#painted = performance.now();
    cells.live.of(this.#id).set(this.#shown());
  }

  #shown(): LiveTurn {
    const answer = this.#answer;
    const prefix = getTurn(this.#id)?.prefixText ?? "";
    return {
      id: this.#id,
      phase: answer.hasBegun ? "writing" : this.#streamId === null ? "queued" : "reading",
      text: answer.text || prefix,
      reasoning: answer.reasoning,
      toolCalls: [...answer.toolCalls],
      tokens: answer.numTokens,
      strip: this.#shownStrip(),
      rate: this.#rate(),
      firstToken: answer.firstToken,
      progress: answer.progress,
      reasoningSince: answer.reasoningEnded === null ? answer.reasoningBegan : null,
      seed: answer.seed,
      isReconnecting: this.#isReconnecting,
    };
  }

  /** The same list for a while: a mark of two pixels need not be drawn with each paint. */
  #shownStrip(): readonly number[] {
    const now = performance.now();
    if (now - this.#strip.since >= STRIP_MS) {
      this.#strip = { since: now, values: [...this.#answer.strip] };
    }
    return this.#strip.values;
  }

  #rate(): number | null {
    if (this.#answer.rate !== null) return this.#answer.rate;
    if (!this.#counted) return null;
    const seconds = (performance.now() - this.#counted.since) / 1000;
    const tokens = this.#answer.numTokens - this.#counted.tokens;
    return tokens > 0 && seconds > 0.2 ? tokens / seconds : null;
  }

  #end(): void {
    const answer = this.#answer;
    if (answer.failure) {
      const hasText = answer.text !== "" || answer.reasoning !== "";
      this.#store("failed", hasText ? "error" : answer.finishReason);
    } else if (answer.finishReason === null) this.#store("cut", "lost");
    else this.#store(answer.finishReason === "length" ? "cut" : "done", answer.finishReason);
  }

  #endWith(error: unknown): void {
    if (this.#stopped.signal.aborted) {
      if (this.isOwner) this.#store("cut", "stopped");
      return;
    }
    if (error instanceof ApiError) {
      if ((error.status === 404 || error.status === 410) && this.#streamId !== null) {
        this.#answer.failure = { kind: "lost", message: error.message };
        this.#store("cut", "lost");
        return;
      }
      this.#answer.failure = error.failure;
    } else this.#answer.failure = { kind: "other", message: String(error) };
    this.#store("failed", "error");
  }

  #store(status: TurnStatus, finishReason: FinishReason | null): void {
    if (!this.isOwner) return;
    const answer = this.#answer;
    const [streamId, streamEvents] = [this.#streamId, this.#numEvents];
    const [text, reasoning] = [answer.text, answer.reasoning];
    const isEmpty = !text && !reasoning && !answer.hasBegun && status === "writing";
    const fields: Partial<Turn> = {
      ...(isEmpty ? {} : { text, reasoning, toolCalls: [...answer.toolCalls] }),
      status,
      finishReason,
      failure: answer.failure,
      stats: { ...answer.stats(), rate: this.#rate() },
      seed: answer.seed,
      hasTokens: answer.tokens.length > 0,
      strip: [...answer.strip],
      streamId,
      streamEvents,
    };
    if (answer.model !== null) fields.model = answer.model;
    // One that was stopped in another tab stays so.
    const make = (stored: Turn) =>
      stored.status === "writing" ? { ...stored, ...fields } : stored;
    this.#hasStored ||= answer.tokens.length > 0;
    const tokens = this.#hasStored ? [{ turn: this.#id, tokens: [...answer.tokens] }] : [];
    void change({ turns: [turnUpdate(this.#id, make)], tokens });
  }
}

/** Whether it may be better the next time. */
function isPassing(error: unknown): boolean {
  if (error instanceof ConnectionLost) return true;
  if (!(error instanceof ApiError)) return false;
  return ["gone", "loading", "full", "key"].includes(error.failure.kind);
}
