import { IDBFactory } from "fake-indexeddb";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import type { Turn } from "../../src/model";
import { FakeServer, idOf } from "./fake_server";

let server: FakeServer;
let page: Awaited<ReturnType<typeof opened>>;

/** The page, as it is after it was opened: its modules are new, its storage is what there is. */
async function opened() {
  vi.resetModules();
  const state = await import("../../src/state");
  const library = await import("../../src/state/library");
  const cells = await import("../../src/state/cells");
  await state.start();
  await vi.waitFor(() => expect(cells.server.get().kind).toBe("ready"));
  return { ...state, ...library, cells };
}

beforeEach(async () => {
  vi.stubGlobal("indexedDB", new IDBFactory());
  server = new FakeServer();
  server.install();
  page = await opened();
});

afterEach(() => vi.unstubAllGlobals());

function shown(chat: string): Turn[] {
  return (
    page.cells.chat
      .of(chat)
      .get()
      ?.path.map(({ turn }) => turn) ?? []
  );
}

async function asked(text = "Hi"): Promise<{ chat: string; answer: Turn }> {
  const chat = page.actions.newChat();
  page.actions.send(chat, text);
  return { chat, answer: await ended(chat) };
}

/** The last turn, when it is no longer written. */
async function ended(chat: string): Promise<Turn> {
  return vi.waitFor(
    () => {
      const last = shown(chat).at(-1);
      expect(last?.role).toBe("assistant");
      expect(last?.status).not.toBe("writing");
      return last!;
    },
    { timeout: 4000 },
  );
}

describe("an answer", () => {
  test("is stored with its tokens, figures and seed", async () => {
    const { chat, answer } = await asked("Say hello\nplease");
    expect(answer).toMatchObject({
      text: "Hello.",
      status: "done",
      finishReason: "stop",
      model: "m",
    });
    expect(answer.stats).toMatchObject({ tokens: 3, rate: 50, promptTokens: 12, cachedTokens: 8 });
    expect(answer.seed).toBe(server.completions()[0]!.seed);
    const tokens = await page.actions.loadTokens(answer.id);
    expect(tokens!.map((token) => token.text)).toEqual(["Hel", "lo", "."]);
    expect(page.getChat(chat)!.title).toBe("Say hello");
  });

  test("goes on over connections that break, and loses no event", async () => {
    server.breaks = [2, 1, 1];
    const { answer } = await asked();
    expect(answer).toMatchObject({ text: "Hello.", status: "done" });
    expect(server.completions()).toHaveLength(1);
    const tokens = await page.actions.loadTokens(answer.id);
    expect(tokens).toHaveLength(3);
  });

  test("goes on where the page is opened again", async () => {
    server.breaks = [2, ...Array<number>(50).fill(0)];
    const chat = page.actions.newChat();
    page.actions.send(chat, "Hi");
    await vi.waitFor(() => expect(shown(chat).at(-1)?.streamId).toBeTruthy());
    (await import("../../src/state/streams")).flushAll();
    await new Promise((resolve) => setTimeout(resolve, 50));
    server.breaks = [];
    page = await opened();
    await page.openChat(chat);
    expect(await ended(chat)).toMatchObject({ text: "Hello.", status: "done" });
    expect(server.completions()).toHaveLength(1);
  });

  test("waits where the queue is full, as long as the server says", async () => {
    const message = "256 requests are waiting already";
    const error = { message, code: "queue_full" };
    server.refusals = [{ status: 429, error, headers: { "Retry-After": "0.2" } }];
    const chat = page.actions.newChat();
    page.actions.send(chat, "Hi");
    await vi.waitFor(() =>
      expect(page.cells.server.get()).toMatchObject({ kind: "full", waiting: 256 }),
    );
    expect(await ended(chat)).toMatchObject({ text: "Hello.", status: "done" });
  });

  test("waits for a server that is gone, with the question kept", async () => {
    server.isGone = true;
    const chat = page.actions.newChat();
    page.actions.send(chat, "Hi");
    await vi.waitFor(() => expect(page.cells.server.get().kind).toBe("gone"));
    server.isGone = false;
    page.actions.retryNow();
    expect(await ended(chat)).toMatchObject({ text: "Hello.", status: "done" });
  });

  test("whose request is refused says why in its place", async () => {
    const message = "top_k is -1, expected at least 0";
    server.refusals = [{ status: 400, error: { message, param: "top_k" } }];
    const { answer } = await asked();
    expect(answer).toMatchObject({ status: "failed", failure: { kind: "refused", message } });
  });

  test("leaves the oldest turns out where the prompt is longer than the context", async () => {
    const { chat } = await asked("first");
    page.actions.send(chat, "second");
    await vi.waitFor(() => expect(shown(chat)).toHaveLength(4));
    await ended(chat);
    server.countTokens = (messages) => 200 * messages.length;
    const error = { message: "too long", code: "context_length_exceeded" };
    server.refusals = [{ status: 400, error }];
    page.actions.send(chat, "third");
    await vi.waitFor(() => expect(shown(chat)).toHaveLength(6));
    expect(await ended(chat)).toMatchObject({ status: "done", leftOut: 4 });
    expect(server.completions().at(-1)!.messages).toEqual([{ role: "user", content: "third" }]);
    expect(page.cells.chat.of(chat).get()!.leftOut).toBe(4);
  });

  test("is asked for without what an older server does not know", async () => {
    const error = { message: "unknown field", param: "return_progress", code: "unknown_parameter" };
    server.refusals = [{ status: 400, error }];
    expect((await asked()).answer.status).toBe("done");
    expect(server.completions()[1]).not.toHaveProperty("return_progress");
  });

  test("whose stream the server has lost is kept, and goes on from its last token", async () => {
    server.breaks = [2];
    server.answer = () => ["Hel", "lo", "."];
    const chat = page.actions.newChat();
    page.actions.send(chat, "Hi");
    await vi.waitFor(() =>
      expect(page.cells.live.of(shown(chat).at(-1)!.id).get()?.tokens).toBe(1),
    );
    server.streams.clear();
    const cut = await ended(chat);
    expect(cut).toMatchObject({ status: "cut", finishReason: "lost", text: "Hel" });
    server.answer = () => ["lo", "."];
    page.actions.continueAnswer(cut.id);
    await vi.waitFor(() => expect(shown(chat).at(-1)).toMatchObject({ status: "done" }));
    const whole = shown(chat).at(-1)!;
    expect(whole).toMatchObject({ id: cut.id, text: "Hello.", seed: cut.seed });
    expect(server.completions()[1]).toMatchObject({
      answer_token_ids: [idOf("Hel")],
      seed: cut.seed,
    });
    expect(await page.actions.loadTokens(cut.id)).toHaveLength(3);
  });

  test("that was cancelled elsewhere is kept, and is no failure", async () => {
    server.breaks = [2];
    const chat = page.actions.newChat();
    page.actions.send(chat, "Hi");
    await vi.waitFor(() => expect(server.streams.size).toBe(1));
    const [kept] = server.streams.values();
    const error = { message: "the stream was cancelled", code: "cancelled" };
    kept!.events.splice(2, Infinity, JSON.stringify({ error }), "[DONE]");
    const cut = await ended(chat);
    expect(cut).toMatchObject({ status: "cut", finishReason: "lost", text: "Hel", failure: null });
  });

  test("that is stopped keeps what came, and the server is told", async () => {
    server.answer = () => Array<string>(500).fill("a ");
    const chat = page.actions.newChat();
    page.actions.send(chat, "Hi");
    await vi.waitFor(() =>
      expect(page.cells.live.of(shown(chat).at(-1)!.id).get()?.tokens).toBeGreaterThan(3),
    );
    page.actions.stop(shown(chat).at(-1)!.id);
    const stopped = await ended(chat);
    expect(stopped).toMatchObject({ status: "cut", finishReason: "stopped" });
    expect(stopped.text.length).toBeGreaterThan(6);
    expect(server.asked.at(-1)).toMatchObject({ method: "DELETE" });
  });
});

describe("branches", () => {
  test("are added by edits, and nothing is lost", async () => {
    const { chat, answer } = await asked("first");
    page.actions.editQuestion(answer.parent!, "second");
    await vi.waitFor(() => expect(shown(chat)[0]!.text).toBe("second"));
    const second = await ended(chat);
    page.actions.regenerate(second.id);
    await vi.waitFor(() => expect(shown(chat)[1]!.id).not.toBe(second.id));
    await ended(chat);
    page.actions.editAnswer(shown(chat)[1]!.id, "by hand");
    await vi.waitFor(() => expect(shown(chat)[1]!.text).toBe("by hand"));
    expect(page.getTree(chat)!.turns.size).toBe(6);
    page.actions.stepBranch(shown(chat)[0]!.id, -1);
    expect(shown(chat).map((turn) => turn.text)).toEqual(["first", "Hello."]);
  });

  test("continue from another token, which is given to the server with those before it", async () => {
    const { chat, answer } = await asked();
    server.answer = () => ["!"];
    page.actions.continueFrom(answer.id, 1, { id: 17, text: "p", logprob: -2 });
    await vi.waitFor(() => expect(shown(chat).at(-1)!.id).not.toBe(answer.id));
    const branch = await ended(chat);
    expect(branch).toMatchObject({ text: `<${idOf("Hel")}><17>!`, seed: answer.seed });
    const body = server.completions().at(-1)!;
    expect(body).toMatchObject({ answer_token_ids: [idOf("Hel"), 17], echo: true });
  });

  test("go into a new chat as copies, with their tokens", async () => {
    const { chat, answer } = await asked();
    const copy = (await page.actions.branchIntoChat(answer.id))!;
    await page.openChat(copy);
    expect(shown(copy).map((turn) => turn.text)).toEqual(shown(chat).map((turn) => turn.text));
    expect(await page.actions.loadTokens(shown(copy)[1]!.id)).toHaveLength(3);
  });

  test("come back when their deletion is undone", async () => {
    const { chat, answer } = await asked();
    page.actions.deleteTurn(answer.parent!);
    expect(shown(chat)).toEqual([]);
    page.actions.undoDeleteTurn(answer.parent!);
    expect(shown(chat).map((turn) => turn.text)).toEqual(["Hi", "Hello."]);
  });
});

describe("a replay", () => {
  test("that comes out the same says so", async () => {
    const { answer } = await asked();
    page.actions.replay(answer.id);
    await vi.waitFor(() => expect(page.getTurn(answer.id)!.replay).toEqual({ same: true }));
    expect(server.completions()[1]!.seed).toBe(answer.seed);
  });

  test("that differs names the first token, and stands beside the answer", async () => {
    const { chat, answer } = await asked();
    server.answer = () => ["Hel", "p", "."];
    page.actions.replay(answer.id);
    await vi.waitFor(() => expect(page.getTurn(answer.id)!.replay).toMatchObject({ at: 1 }));
    const { replay } = page.getTurn(answer.id)!;
    expect(replay && !replay.same && page.getTurn(replay.branch)!.text).toBe("Help.");
    expect(shown(chat).at(-1)!.id).toBe(answer.id);
  });
});
