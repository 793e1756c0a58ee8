// @vitest-environment node
import { IDBFactory, IDBObjectStore } from "fake-indexeddb";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { type Chat, newChat, newTurn, type TokenRecord } from "../../src/model";
import { pack, unpack } from "../../src/store/packing";
import { Repository } from "../../src/store/repository";
import { search } from "../../src/store/search";

const open: Repository[] = [];

async function repository(): Promise<Repository> {
  const made = await Repository.open("test");
  open.push(made);
  return made;
}

const put = <Kept>(record: Kept & { id: string }) => ({
  id: record.id,
  make: (stored: Kept | undefined) => stored ?? record,
});

const retitled = (chat: Chat, change: Partial<Chat>) => ({
  id: chat.id,
  make: (stored: Chat | undefined) => stored && { ...stored, ...change },
});

beforeEach(() => {
  vi.stubGlobal("indexedDB", new IDBFactory());
});

afterEach(() => {
  vi.restoreAllMocks();
  for (const each of open.splice(0)) each.close();
});

describe("the repository", () => {
  test("keeps chats, turns and tokens", async () => {
    const [first, chat] = [await repository(), newChat()];
    const turn = newTurn(chat.id, null, "user", { text: "Hi" });
    const tokens = [{ id: 1, text: "Hi", logprob: -0.5, top: [] }];
    await first.save({
      chats: [put(chat)],
      turns: [put(turn)],
      tokens: [{ turn: turn.id, tokens }],
    });
    const second = await repository();
    expect(await second.chats()).toEqual([{ ...chat, version: 1 }]);
    expect(await second.turns(chat.id)).toEqual([{ ...turn, version: 1 }]);
    expect(await second.tokens(turn.id)).toEqual(tokens);
  });

  test("loses no update of two tabs that change one chat at the same time", async () => {
    const [one, two, chat] = [await repository(), await repository(), newChat()];
    await one.save({ chats: [put(chat)] });
    await Promise.all([
      one.save({ chats: [retitled(chat, { title: "of one" })] }),
      two.save({ chats: [retitled(chat, { pinned: true })] }),
      one.save({ chats: [retitled(chat, { draft: "typed" })] }),
    ]);
    const [kept] = await two.chats();
    expect(kept).toMatchObject({ title: "of one", pinned: true, draft: "typed", version: 4 });
  });

  test("tells other tabs of what was written", async () => {
    const [one, two, chat] = [await repository(), await repository(), newChat()];
    const heard = new Promise<string[]>((resolve) => {
      two.onWritten = (written) => resolve(written.chats.map((each) => each.id));
    });
    await one.save({ chats: [put(chat)] });
    expect(await heard).toEqual([chat.id]);
  });

  test("says that the storage is full, keeps what is new, and stores it when there is room", async () => {
    const [one, chat] = [await repository(), newChat()];
    await one.save({ chats: [put(chat)] });
    const states: string[] = [];
    one.onStorage = (state) => states.push(state.kind);
    const full = vi.spyOn(IDBObjectStore.prototype, "put").mockImplementation(() => {
      throw new DOMException("no room", "QuotaExceededError");
    });
    const turn = newTurn(chat.id, null, "user", { text: "kept" });
    await one.save({ turns: [put(turn)], chats: [retitled(chat, { title: "new" })] });
    expect(states).toEqual(["full"]);
    expect((await one.turns(chat.id)).map((each) => each.text)).toEqual(["kept"]);
    expect((await one.chats())[0]!.title).toBe("new");
    full.mockRestore();
    const two = await repository();
    await two.save({ chats: [retitled(chat, { pinned: true })] }); // by another tab, meanwhile
    await one.save({ chats: [retitled(chat, { draft: "d" })] });
    expect(states).toEqual(["full", "ok"]);
    expect((await two.turns(chat.id)).map((each) => each.text)).toEqual(["kept"]);
    expect((await two.chats())[0]).toMatchObject({ title: "new", pinned: true, draft: "d" });
  });

  test("keeps everything in the tab where storage is forbidden", async () => {
    vi.spyOn(indexedDB, "open").mockImplementation(() => {
      throw new DOMException("no", "SecurityError");
    });
    const [one, chat] = [await repository(), newChat()];
    expect(one.storage.kind).toBe("forbidden");
    await one.save({ chats: [put(chat)] });
    expect(await one.chats()).toHaveLength(1);
  });

  test("keeps everything in the tab where a newer page has changed the storage", async () => {
    const newer = indexedDB.open("test", 7);
    await new Promise((resolve) => {
      newer.onsuccess = resolve;
    });
    newer.result.close();
    const [one, chat] = [await repository(), newChat()];
    expect(one.storage).toMatchObject({
      kind: "forbidden",
      message: expect.stringMatching(/version/),
    });
    await one.save({ chats: [put(chat)] });
    expect(await one.chats()).toHaveLength(1);
  });

  test("lets a newer page change the storage, and keeps what is new in the tab", async () => {
    const [one, chat, later] = [await repository(), newChat(), newChat()];
    await one.save({ chats: [put(chat)] });
    const newer = indexedDB.open("test", 7);
    await new Promise((resolve) => {
      newer.onsuccess = resolve;
    });
    newer.result.close();
    await one.save({ chats: [put(later)] });
    expect(one.storage.kind).toBe("forbidden");
    expect((await one.chats()).map((each) => each.id)).toContain(later.id);
  });

  test("opens the storage again where the browser has closed it", async () => {
    const [one, chat, later] = [await repository(), newChat(), newChat()];
    await one.save({ chats: [put(chat)] });
    await new Promise((resolve) => {
      indexedDB.deleteDatabase("test").onsuccess = resolve; // by another tab: ours is closed
    });
    await one.save({ chats: [put(later)] });
    expect(one.storage.kind).toBe("ok");
    expect((await (await repository()).chats()).map((each) => each.id)).toEqual([later.id]);
  });

  test("purges what was deleted long ago, with its turns", async () => {
    const [one, old, kept] = [await repository(), newChat(), newChat()];
    const turns = [old, kept].map((chat) => newTurn(chat.id, null, "user"));
    await one.save({
      chats: [put<Chat>({ ...old, deleted: 5 }), put(kept)],
      turns: turns.map(put),
    });
    await one.purge(10);
    expect((await one.chats()).map((chat) => chat.id)).toEqual([kept.id]);
    expect(await one.turns(old.id)).toEqual([]);
    expect(await one.turns(kept.id)).toHaveLength(1);
  });

  test("finds titles first, then lines with the match", async () => {
    const one = await repository();
    const chats = ["About llamas", "Other"].map((title, k) => ({
      ...newChat(),
      title,
      changed: k,
    }));
    const text = "first line\nhere a LLAMA stands\nlast";
    const turn = newTurn(chats[1]!.id, null, "assistant", { text });
    await one.save({ chats: chats.map(put), turns: [put(turn)] });
    const [title, line] = await search(one, chats, "llama");
    expect(title).toMatchObject({ chat: chats[0]!.id, turn: null, start: 6, end: 11 });
    expect(line).toMatchObject({ turn: turn.id, line: "here a LLAMA stands" });
    expect(line!.line!.slice(line!.start, line!.end)).toBe("LLAMA");
  });

  test("finds a chat once: by its newest turn with the words", async () => {
    const one = await repository();
    const chat = { ...newChat(), title: "Other" };
    const [newer, older] = [20, 10].map((created) => ({
      ...newTurn(chat.id, null, "assistant", { text: `a llama at ${created}` }),
      created,
    }));
    await one.save({ chats: [put(chat)], turns: [put(newer!), put(older!)] });
    const hits = await search(one, [chat], "llama");
    expect(hits.map((hit) => hit.turn)).toEqual([newer!.id]);
  });
});

test("packed tokens are the tokens, to the fifth decimal", () => {
  const choice = (id: number, text: string, logprob: number) => ({ id, text, logprob });
  const tokens: TokenRecord[] = [
    { ...choice(5, " a", -0.25), top: [choice(5, " a", -0.25), choice(7, "b", -1.5)] },
    { ...choice(7, "b", -3), top: [] },
    { id: null, text: "\uFFFD", logprob: -2, top: [choice(5, " a", -9)] },
  ];
  expect(unpack(pack(tokens))).toEqual(tokens);
});
