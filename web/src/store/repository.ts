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
  tokens?: ({ turn: TurnId } & ({ tokens: readonly TokenRecord[] } | { packed: PackedTokens }))[];
}

/** Records that came to be, here or in another tab. */
export interface Written {
  chats: Chat[];
  turns: Turn[];
  /** Chats with more turns than are told: who shows one reads it again. */
  reread?: ChatId[];
}

type StoreName = "chats" | "turns" | "tokens";

export class Repository {
  #db: IDBPDatabase<Schema> | null;
  readonly #channel: BroadcastChannel | null;
  #queue: Promise<unknown> = Promise.resolve();
  #storage: StorageState;
  /** What could not be stored: the updates, and what came of them. */
  #pending: Changes[] = [];
  readonly #unsaved = { chats: new Map<string, Chat>(), turns: new Map<string, Turn>() };
  readonly #unsavedTokens = new Map<string, PackedTokens>();

  onWritten: (written: Written, isOwn: boolean) => void = () => {};
  onStorage: (state: StorageState) => void = () => {};

  private constructor(
    db: IDBPDatabase<Schema> | null,
    readonly name: string,
    why: string,
  ) {
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
      return new Repository(await opened(name), name, "");
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
    const stored = await this.#read((db) => db.getAll("chats"));
    return overlaid(stored ?? [], this.#unsaved.chats);
  }

  async turns(chat: ChatId): Promise<Turn[]> {
    const stored = await this.#read((db) => db.getAllFromIndex("turns", "chat", chat));
    return overlaid(stored ?? [], this.#unsaved.turns).filter((turn) => turn.chat === chat);
  }

  async turn(id: TurnId): Promise<Turn | undefined> {
    await this.#queue;
    return this.#unsaved.turns.get(id) ?? (await this.#read((db) => db.get("turns", id)));
  }

  /** Answers that were being written when they were last stored. */
  async unfinished(): Promise<Turn[]> {
    const stored = await this.#read((db) => db.getAllFromIndex("turns", "status", "writing"));
    const all = overlaid(stored ?? [], this.#unsaved.turns);
    return all.filter((turn) => turn.status === "writing");
  }

  /** The tokens of an answer; null where none are stored. */
  async tokens(turn: TurnId): Promise<TokenRecord[] | null> {
    const packed = await this.packedTokens(turn);
    return packed ? unpack(packed) : null;
  }

  async packedTokens(turn: TurnId): Promise<PackedTokens | null> {
    await this.#queue;
    const unsaved = this.#unsavedTokens.get(turn);
    return unsaved ?? (await this.#read((db) => db.get("tokens", turn))) ?? null;
  }

  /** All turns, in portions, so that the page stays awake. */
  async *allTurns(portion = 500): AsyncGenerator<Turn[], void> {
    await this.#queue;
    yield [...this.#unsaved.turns.values()];
    let from: IDBKeyRange | undefined;
    for (;;) {
      const turns = await this.#read((db) => db.getAll("turns", from, portion));
      if (!turns?.length) return;
      yield turns.filter((turn) => !this.#unsaved.turns.has(turn.id));
      from = IDBKeyRange.lowerBound(turns.at(-1)!.id, true);
    }
  }

  /** Read what is stored, after what was asked for before; undefined where that cannot be. */
  async #read<Kept>(work: (db: IDBPDatabase<Schema>) => Promise<Kept>): Promise<Kept | undefined> {
    await this.#queue;
    if (!this.#db) return undefined;
    try {
      return await work(this.#db);
    } catch {
      try {
        this.#db = await opened(this.name); // the browser had closed it
        return await work(this.#db);
      } catch (error) {
        this.#setStorage(stateOf(error));
        return undefined;
      }
    }
  }

  // --- writing

  /** Apply changes, after those that were asked for before. Never rejects. */
  save(changes: Changes): Promise<Written> {
    const work = this.#queue.then(() => this.#save(changes));
    this.#queue = work.catch(() => {});
    return work;
  }

  /**
   * Apply the many changes of an import. Rejects where they cannot be stored; without any storage they
   * are kept in this tab. Other tabs hear of the chats, and read their turns where they show them.
   */
  async saveAll(changes: Changes): Promise<void> {
    if (!this.#db) {
      this.onWritten(await this.save(changes), false);
      return;
    }
    const { chats, turns } = await this.#transact(this.#db, [changes]);
    const written = { chats, turns: [], reread: [...new Set(turns.map((turn) => turn.chat))] };
    this.#channel?.postMessage(written);
    this.onWritten(written, false);
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
    const transaction = await this.#begin(db);
    const done = transaction.done;
    done.catch(() => {}); // thrown below
    const chats = new Map<ChatId, Chat>();
    const turns = new Map<TurnId, Turn>();
    try {
      for (const changes of all) {
        await Promise.all([
          applied(transaction.objectStore("chats"), changes.chats ?? [], chats),
          applied(transaction.objectStore("turns"), changes.turns ?? [], turns),
          ...(changes.tokens ?? []).map((each) =>
            transaction.objectStore("tokens").put(packedOf(each), each.turn),
          ),
        ]);
      }
      await done;
    } catch (error) {
      try {
        transaction.abort();
      } catch {
        // It is aborted already.
      }
      throw error;
    }
    return { chats: [...chats.values()], turns: [...turns.values()] };
  }

  /** Begin a transaction; a database that was closed, as site data were cleared, is opened again. */
  async #begin(db: IDBPDatabase<Schema>) {
    const names: StoreName[] = ["chats", "turns", "tokens"];
    try {
      return db.transaction(names, "readwrite");
    } catch (error) {
      if ((error as Error).name !== "InvalidStateError") throw error;
      this.#db = await opened(this.name);
      return this.#db.transaction(names, "readwrite");
    }
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
      const chat = next(this.#unsaved.chats.get(id) ?? (await this.#stored("chats", id)), make);
      if (!chat) continue;
      this.#unsaved.chats.set(id, chat);
      written.chats.push(chat);
    }
    for (const { id, make } of changes.turns ?? []) {
      const turn = next(this.#unsaved.turns.get(id) ?? (await this.#stored("turns", id)), make);
      if (!turn) continue;
      this.#unsaved.turns.set(id, turn);
      written.turns.push(turn);
    }
    for (const each of changes.tokens ?? []) this.#unsavedTokens.set(each.turn, packedOf(each));
    this.onWritten(written, true);
    return written;
  }

  // From within the queue: a read that waits for it would wait for itself.
  async #stored<Name extends "chats" | "turns">(
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

/** Open the database. A newer page that wants to change it is let; this one then keeps to its tab. */
function opened(name: string): Promise<IDBPDatabase<Schema>> {
  return openDB<Schema>(name, 1, {
    upgrade(fresh) {
      fresh.createObjectStore("chats", { keyPath: "id" });
      const turns = fresh.createObjectStore("turns", { keyPath: "id" });
      turns.createIndex("chat", "chat");
      turns.createIndex("status", "status");
      fresh.createObjectStore("tokens");
    },
    blocking: (_current, _blocked, event) => (event.target as IDBDatabase).close(),
  });
}

interface RecordStore<Kept> {
  get(id: string): Promise<Kept | undefined>;
  put(record: Kept): Promise<unknown>;
}

/** Apply updates to a store, all asked for at once; `written` collects what came of them. */
async function applied<Kept extends { version: number }>(
  store: RecordStore<Kept>,
  updates: readonly Update<Kept>[],
  written: Map<string, Kept>,
): Promise<void> {
  const stored = await Promise.all(updates.map(({ id }) => written.get(id) ?? store.get(id)));
  const puts = updates.map(async ({ id, make }, k) => {
    const record = next(written.get(id) ?? stored[k], make);
    if (!record) return;
    written.set(id, record);
    await store.put(record);
  });
  await Promise.all(puts);
}

function packedOf(each: NonNullable<Changes["tokens"]>[number]): PackedTokens {
  return "packed" in each ? each.packed : pack(each.tokens);
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

export function stateOf(error: unknown): { kind: "full" | "forbidden"; message: string } {
  const name = (error as { name?: string } | null)?.name;
  const kind = name === "QuotaExceededError" ? "full" : "forbidden";
  return { kind, message: String(error) };
}
