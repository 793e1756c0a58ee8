// @vitest-environment node
import { IDBFactory, IDBObjectStore } from "fake-indexeddb";
import fc from "fast-check";
import { beforeEach, describe, expect, test, vi } from "vitest";
import { newChat, newTurn, path, treeOf } from "../../src/model";
import { UnitReader } from "../../src/store/json_units";
import { Repository } from "../../src/store/repository";
import { exportChats, importChats } from "../../src/store/transfer";

let repository: Repository;

beforeEach(async () => {
  vi.stubGlobal("indexedDB", new IDBFactory());
  repository = await Repository.open("test");
});

const taken = (text: string | Blob) =>
  importChats(repository, text instanceof Blob ? text : new Blob([text]));

async function filled(numChats = 3): Promise<void> {
  for (let k = 0; k < numChats; k++) {
    const chat = { ...newChat(), title: `chat ${k} “{[,]}” \\ "` };
    const question = newTurn(chat.id, null, "user", { text: `question ${k}` });
    const answers = ["one", "two"].map((text) =>
      newTurn(chat.id, question.id, "assistant", { text, hasTokens: true, seed: k }),
    );
    await repository.save({
      chats: [{ id: chat.id, make: () => chat }],
      turns: [question, ...answers].map((turn) => ({ id: turn.id, make: () => turn })),
      tokens: answers.map((turn) => ({
        turn: turn.id,
        tokens: [{ id: 1, text: turn.text, logprob: -1, top: [] }],
      })),
    });
  }
}

describe("an export", () => {
  test.each(["json", "jsonl"] as const)("as %s brings everything back elsewhere", async (form) => {
    await filled();
    const blob = await exportChats(repository, form);
    const before = await repository.chats();
    const turns = await repository.turns(before[0]!.id);
    vi.stubGlobal("indexedDB", new IDBFactory());
    repository = await Repository.open("elsewhere");
    expect(await taken(blob)).toMatchObject({ chats: 3, turns: 9, damaged: 0 });
    expect((await repository.chats()).map((chat) => chat.title)).toEqual(
      before.map((chat) => chat.title),
    );
    const back = await repository.turns(before[0]!.id);
    expect(back.map(({ id, text, parent }) => ({ id, text, parent }))).toEqual(
      turns.map(({ id, text, parent }) => ({ id, text, parent })),
    );
    const answer = back.find((turn) => turn.text === "two")!;
    expect((await repository.tokens(answer.id))![0]!.text).toBe("two");
  });

  test("overwrites nothing that exists", async () => {
    await filled(1);
    const blob = await exportChats(repository, "json");
    const [chat] = await repository.chats();
    const changed = { ...chat!, title: "changed since" };
    await repository.save({ chats: [{ id: chat!.id, make: () => changed }] });
    await taken(blob);
    expect((await repository.chats()).map((each) => each.title)).toEqual(["changed since"]);
    expect(await repository.turns(chat!.id)).toHaveLength(3);
  });

  test("cut in the middle gives the chats before the cut, and what can be read of the next", async () => {
    await filled(4);
    const text = await (await exportChats(repository, "json")).text();
    const cut = text.slice(0, Math.floor(text.length * 0.6));
    vi.stubGlobal("indexedDB", new IDBFactory());
    repository = await Repository.open("elsewhere");
    const report = await taken(cut);
    expect(report.chats).toBeGreaterThanOrEqual(2);
    expect(report.damaged).toBe(1);
  });
});

describe("an import", () => {
  test("reads the conversations that `cullama chat` saves", async () => {
    const saved = {
      ...{ kind: "cullama chat", version: 1, model: "SmolLM2", params: { temperature: 0.5 } },
      messages: [
        { role: "system", content: "Be brief." },
        { role: "user", content: [{ type: "text", text: "Hi" }] },
        { role: "assistant", content: "Hello." },
      ],
    };
    const report = await taken(`${JSON.stringify(saved, null, 2)}\n`);
    expect(report).toMatchObject({ chats: 1, turns: 2, damaged: 0 });
    const [chat] = await repository.chats();
    expect(chat!.settings).toMatchObject({ system: "Be brief.", sampling: { temperature: 0.5 } });
    const turns = await repository.turns(chat!.id);
    const shown = path(treeOf(turns, chat!.active)).map(({ turn }) => [turn.role, turn.text]);
    expect(shown).toEqual([
      ["user", "Hi"],
      ["assistant", "Hello."],
    ]);
  });

  test("reads ChatGPT's export: its branches, and the one that was shown", async () => {
    const node = (id: string, parent: string | null, role: string, parts: unknown[]) => ({
      id,
      parent,
      message: { author: { role }, create_time: 1700000000.5, content: { parts } },
    });
    const mapping = {
      root: { id: "root", parent: null, message: null },
      s: node("s", "root", "system", [""]),
      q: node("q", "s", "user", ["Why?"]),
      a1: node("a1", "q", "assistant", ["First."]),
      a2: node("a2", "q", "assistant", ["Second."]),
      t: node("t", "a1", "tool", ["hidden"]),
      q2: node("q2", "t", "user", ["And?"]),
      bad: { id: "bad", parent: "q", message: { author: null } },
    };
    const title = "<img src=x onerror=alert(1)>";
    const exported = [{ title, id: "c1", create_time: 1, mapping, current_node: "q2" }];
    expect(await taken(JSON.stringify(exported))).toMatchObject({ chats: 1, turns: 4, damaged: 1 });
    const [chat] = await repository.chats();
    expect(chat!.title).toBe(title);
    const shown = path(treeOf(await repository.turns(chat!.id), chat!.active));
    expect(shown.map(({ turn }) => turn.text)).toEqual(["Why?", "First.", "And?"]);
    expect(shown[1]).toMatchObject({ index: 0, count: 2 });
  });

  test.each([
    ["not json"],
    ["{}"],
    ["[]"],
    ["[1, 2]"],
    [""],
    ['{"kind": "cullama page"'],
    ["null"],
  ])("of %j says that there is nothing, and fails nowhere", async (text) => {
    const report = await taken(text);
    expect(report.chats).toBe(0);
    expect(await repository.chats()).toEqual([]);
  });

  test("keeps the turns that can be read where others cannot", async () => {
    const turns = [
      { id: "a", parent: null, role: "user", text: "Hi" },
      { id: "b", parent: "a", role: "assistant", text: 17 },
      { id: "c", parent: "b", role: "user", text: "Still here" },
      "nonsense",
    ];
    const file = { kind: "cullama page", version: 1, chats: [{ chat: { id: "x" }, turns }] };
    expect(await taken(JSON.stringify(file))).toMatchObject({ chats: 1, turns: 2, damaged: 1 });
    const kept = await repository.turns("x");
    expect(kept.map((turn) => [turn.id, turn.parent])).toEqual([
      ["a", null],
      ["c", "a"],
    ]);
  });

  const long = (numChats: number) =>
    Array.from({ length: numChats }, (_, k) => {
      const messages = [{ role: "user", content: `${k} ${"long ".repeat(60_000)}` }];
      return `${JSON.stringify({ title: `chat ${k}`, messages })}\n`;
    }).join("");

  test("that is cancelled keeps what was stored, and says so", async () => {
    const control = new AbortController();
    const blob = new Blob([long(12)]);
    const report = await importChats(repository, blob, () => control.abort(), control.signal);
    expect(report.stopped).toBe("cancelled");
    expect(report.chats).toBeLessThan(12);
    const kept = await repository.chats();
    expect(kept.length).toBeGreaterThan(0);
    expect(kept).toHaveLength(report.chats);
    for (const chat of kept) expect(await repository.turns(chat.id)).toHaveLength(1);
  });

  test("for which there is no room counts what was stored, and says why it ended", async () => {
    let room = 6;
    const put = IDBObjectStore.prototype.put;
    const full = vi.spyOn(IDBObjectStore.prototype, "put").mockImplementation(function (
      this: IDBObjectStore,
      ...given
    ) {
      const isChat = this.name === "chats";
      if (isChat && room-- <= 0) throw new DOMException("no room", "QuotaExceededError");
      return put.apply(this, given);
    });
    const report = await importChats(repository, new Blob([long(12)]));
    full.mockRestore();
    expect(report).toMatchObject({ stopped: "full", damaged: 0 });
    expect(await repository.chats()).toHaveLength(report.chats);
    expect(report.chats).toBeGreaterThan(0);
    expect(report.chats).toBeLessThanOrEqual(6);
  });

  test("reads the same units however the file comes in pieces", () => {
    const value = fc.jsonValue({ maxDepth: 3 });
    const objects = fc.array(fc.dictionary(fc.string(), value), { maxLength: 5 });
    fc.assert(
      fc.property(objects, fc.array(fc.nat(40)), (list, lengths) => {
        for (const text of [
          JSON.stringify(list),
          list.map((each) => `${JSON.stringify(each)}\n`).join(""),
        ]) {
          const reader = new UnitReader();
          const units: unknown[] = [];
          let rest = text;
          for (const length of lengths) {
            units.push(...reader.feed(rest.slice(0, length)).map((unit) => JSON.parse(unit.text)));
            rest = rest.slice(length);
          }
          units.push(...reader.feed(rest).map((unit) => JSON.parse(unit.text)));
          units.push(...reader.end().map((unit) => JSON.parse(unit.text)));
          expect(units).toEqual(JSON.parse(JSON.stringify(list)));
        }
      }),
    );
  });
});
