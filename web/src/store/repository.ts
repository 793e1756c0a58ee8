/**
 * Keeps chats, turns and tokens in IndexedDB, and tells other tabs of every change.
 *
 * No update is lost: each is a function of the record as it is stored, applied in one transaction.
 * What cannot be stored (no room, or forbidden) is kept in this tab, said so, and tried again with the
 * next change.
 */

import { type DBSchema, type IDBPDatabase, openDB } from "idb";
import type { Chat, ChatId, StorageState, TokenRecord, Turn, TurnId } from "../model/types";
import { type PackedTokens, pack, unpack } from "./packing";

interface Schema extends DBSchema {
  chats: { key: string; value: Chat };
  turns: { key: string; value: Turn; indexes: { chat: string; status: string } };
  tokens: { key: string; value: PackedTokens };
}

/** Return the record as it should be; undefined leaves it as it is. */
export interface Update<Record> {
  id: string;
  make: (stored: Record | undefined) => Record | undefined;
}

export interface Changes {
  chats?: Update<Chat>[];
  turns?: Update<Turn>[];
  tokens?: { turn: TurnId; tokens: readonly TokenRecord[] }[];
}

/** Records that came to be, here or in another tab. */
export interface Written {
  chats: Chat[];
  turns: Turn[];
}

type StoreName = "chats" | "turns" | "tokens";

export class Repository {
  readonly #db: IDBPDatabase<Schema> | null;
  readonly #channel: BroadcastChannel | null;
  #queue: Promise<unknown> = Promise.resolve();
  #storage: StorageState;
  /** What could not be stored: the updates, and what came of them. */
  #pending: Changes[] = [];
  readonly #unsaved = { chats: new Map<string, Chat>(), turns: new Map<string, Turn>() };
  readonly #unsavedTokens = new Map<string, PackedTokens>();

  onWritten: (written: Written, isOwn: boolean) => void = () => {};
  onStorage: (state: StorageState) => void = () => {};

  private constructor(db: IDBPDatabase<Schema> | null, name: string, why: string) {
    this.#db = db;
    this.#storage = db
      ? { kind: "ok", isPersistent: false, usedBytes: null }
      : { kind: "forbidden", message: why };
    this.#channel = typeof BroadcastChannel === "undefined" ? null : new BroadcastChannel(name);
    this.#channel?.addEventListener("message", (event: MessageEvent<Written>) => {
      this.onWritten(event.data, false);
    });
  }

  /** Open the browser's storage; where that cannot be, keep everything in this tab. */
  static async open(name = "cullama"): Promise<Repository> {
    try {
      const db = await openDB<Schema>(name, 1, {
        upgrade(fresh) {
          fresh.createObjectStore("chats", { keyPath: "id" });
          const turns = fresh.createObjectStore("turns", { keyPath: "id" });
          turns.createIndex("chat", "chat");
          turns.createIndex("status", "status");
          fresh.createObjectStore("tokens");
        },
        blocking: (_current, _blocked, event) => (event.target as IDBDatabase).close(),
      });
      return new Repository(db, name, "");
    } catch (error) {
      return new Repository(null, name, String(error));
    }
  }

  get storage(): StorageState {
    return this.#storage;
  }

  close(): void {
    this.#channel?.close();
    this.#db?.close();
  }

  // --- reading

  async chats(): Promise<Chat[]> {
    await this.#queue;
    const stored = (await this.#db?.getAll("chats")) ?? [];
    return overlaid(stored, this.#unsaved.chats);
  }

  async turns(chat: ChatId): Promise<Turn[]> {
    await this.#queue;
    const stored = (await this.#db?.getAllFromIndex("turns", "chat", chat)) ?? [];
    return overlaid(stored, this.#unsaved.turns).filter((turn) => turn.chat === chat);
  }

  async turn(id: TurnId): Promise<Turn | undefined> {
    await this.#queue;
    return this.#unsaved.turns.get(id) ?? (await this.#db?.get("turns", id));
  }

  /** Answers that were being written when they were last stored. */
  async unfinished(): Promise<Turn[]> {
    await this.#queue;
    const stored = (await this.#db?.getAllFromIndex("turns", "status", "writing")) ?? [];
    return overlaid(stored, this.#unsaved.turns).filter((turn) => turn.status === "writing");
  }

  /** The tokens of an answer; null where none are stored. */
  async tokens(turn: TurnId): Promise<TokenRecord[] | null> {
    await this.#queue;
    const packed = this.#unsavedTokens.get(turn) ?? (await this.#db?.get("tokens", turn));
    return packed ? unpack(packed) : null;
  }

  async packedTokens(turn: TurnId): Promise<PackedTokens | null> {
    return this.#unsavedTokens.get(turn) ?? (await this.#db?.get("tokens", turn)) ?? null;
  }

  /** All turns, in portions, so that the page stays awake. */
  async *allTurns(portion = 500): AsyncGenerator<Turn[], void> {
    await this.#queue;
    yield [...this.#unsaved.turns.values()];
    let from: IDBKeyRange | undefined;
    while (this.#db) {
      const turns = await this.#db.getAll("turns", from, portion);
      if (!turns.length) return;
      yield turns.filter((turn) => !this.#unsaved.turns.has(turn.id));
      from = IDBKeyRange.lowerBound(turns.at(-1)!.id, true);
    }
  }

  // --- writing

  /** Apply changes, after those that were asked for before. Never rejects. */
  save(changes: Changes): Promise<Written> {
    const work = this.#queue.then(() => this.#save(changes));
    this.#queue = work.catch(() => {});
    return work;
  }

  async #save(changes: Changes): Promise<Written> {
    if (this.#db) {
      try {
        // Updates that could not be stored are applied again, to what other tabs have stored since.
        const written = await this.#transact(this.#db, [...this.#pending, changes]);
        this.#saved(written);
        return written;
      } catch (error) {
        this.#setStorage(stateOf(error));
      }
    }
    this.#pending.push(changes);
    return this.#keep(changes);
  }

  async #transact(db: IDBPDatabase<Schema>, all: Changes[]): Promise<Written> {
    const names: StoreName[] = ["chats", "turns", "tokens"];
    const transaction = db.transaction(names, "readwrite");
    const chats = new Map<ChatId, Chat>();
    const turns = new Map<TurnId, Turn>();
    try {
      for (const changes of all) {
        for (const { id, make } of changes.chats ?? []) {
          const chat = next(await transaction.objectStore("chats").get(id), make);
          if (!chat) continue;
          await transaction.objectStore("chats").put(chat);
          chats.set(id, chat);
        }
        for (const { id, make } of changes.turns ?? []) {
          const turn = next(await transaction.objectStore("turns").get(id), make);
          if (!turn) continue;
          await transaction.objectStore("turns").put(turn);
          turns.set(id, turn);
        }
        for (const { turn, tokens } of changes.tokens ?? []) {
          await transaction.objectStore("tokens").put(pack(tokens), turn);
        }
      }
      await transaction.done;
    } catch (error) {
      transaction.done.catch(() => {});
      try {
        transaction.abort();
      } catch {
        // It is aborted already.
      }
      throw error;
    }
    return { chats: [...chats.values()], turns: [...turns.values()] };
  }

  #saved(written: Written): void {
    this.#pending = [];
    this.#unsaved.chats.clear();
    this.#unsaved.turns.clear();
    this.#unsavedTokens.clear();
    if (this.#storage.kind !== "ok") {
      this.#setStorage({ kind: "ok", isPersistent: false, usedBytes: null });
    }
    this.#channel?.postMessage(written);
    this.onWritten(written, true);
  }

  /** Keep changes in this tab alone. */
  async #keep(changes: Changes): Promise<Written> {
    const written: Written = { chats: [], turns: [] };
    for (const { id, make } of changes.chats ?? []) {
      const chat = next(this.#unsaved.chats.get(id) ?? (await this.#read("chats", id)), make);
      if (!chat) continue;
      this.#unsaved.chats.set(id, chat);
      written.chats.push(chat);
    }
    for (const { id, make } of changes.turns ?? []) {
      const turn = next(this.#unsaved.turns.get(id) ?? (await this.#read("turns", id)), make);
      if (!turn) continue;
      this.#unsaved.turns.set(id, turn);
      written.turns.push(turn);
    }
    for (const { turn, tokens } of changes.tokens ?? []) {
      this.#unsavedTokens.set(turn, pack(tokens));
    }
    this.onWritten(written, true);
    return written;
  }

  async #read<Name extends "chats" | "turns">(
    name: Name,
    id: string,
  ): Promise<Schema[Name]["value"] | undefined> {
    try {
      return await this.#db?.get(name, id);
    } catch {
      return undefined;
    }
  }

  /** Remove what was marked as deleted before a time, for good. */
  async purge(before: number): Promise<void> {
    if (!this.#db) return;
    const chats = (await this.#db.getAll("chats")).filter((chat) => isOld(chat, before));
    const gone = new Set(chats.map((chat) => chat.id));
    const turns: Turn[] = [];
    for await (const portion of this.allTurns()) {
      turns.push(...portion.filter((turn) => gone.has(turn.chat) || isOld(turn, before)));
    }
    if (!chats.length && !turns.length) return;
    const transaction = this.#db.transaction(["chats", "turns", "tokens"], "readwrite");
    for (const { id } of chats) transaction.objectStore("chats").delete(id);
    for (const { id } of turns) {
      transaction.objectStore("turns").delete(id);
      transaction.objectStore("tokens").delete(id);
    }
    await transaction.done;
  }

  // --- room

  /** Ask the browser not to remove the chats when it needs room. */
  async persist(): Promise<boolean> {
    const isPersistent = (await navigator.storage?.persist?.().catch(() => false)) ?? false;
    if (this.#storage.kind === "ok") this.#setStorage({ ...this.#storage, isPersistent });
    return isPersistent;
  }

  async usedBytes(): Promise<number | null> {
    const estimate = await navigator.storage?.estimate?.().catch(() => null);
    return estimate?.usage ?? null;
  }

  #setStorage(state: StorageState): void {
    this.#storage = state;
    this.onStorage(state);
  }
}

function next<Kept extends { version: number }>(
  stored: Kept | undefined,
  make: (stored: Kept | undefined) => Kept | undefined,
): Kept | undefined {
  const made = make(stored);
  if (!made || made === stored) return undefined;
  return { ...made, version: (stored?.version ?? 0) + 1 };
}

function overlaid<Kept extends { id: string }>(stored: Kept[], unsaved: Map<string, Kept>): Kept[] {
  if (!unsaved.size) return stored;
  return [...new Map([...stored.map((each) => [each.id, each] as const), ...unsaved]).values()];
}

function isOld(record: { deleted: number | null }, before: number): boolean {
  return record.deleted !== null && record.deleted < before;
}

function stateOf(error: unknown): StorageState {
  const name = (error as { name?: string } | null)?.name;
  const kind = name === "QuotaExceededError" ? "full" : "forbidden";
  return { kind, message: String(error) };
}
