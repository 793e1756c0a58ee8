/**
 * What is done to turns, and to what the server has to be asked for. The first paint does without
 * all this: it is loaded beside it (turn_actions_later.ts).
 */

import {
  add,
  type Chat,
  type ChatId,
  type Choice,
  children,
  copyBranch,
  descendants,
  newChat,
  newId,
  newSeed,
  newTurn,
  path,
  remove,
  restore,
  type Sampling,
  show,
  step,
  type Tree,
  type Turn,
  type TurnId,
  titleOf,
  withoutSeed,
} from "../model";
import type { Changes } from "../store/repository";
import { context } from "./context";
import { dropDraft } from "./drafts";
import {
  addBlank,
  change,
  chatUpdate,
  getChat,
  getTree,
  getTurn,
  newTurnUpdate,
  openChat,
  turnUpdate,
} from "./library";
import { checkSchema, loadLayers, loadPrompt } from "./looking";
import { replay } from "./replays";
import { stop, write } from "./streams";
import type { TurnActions } from "./turn_actions_later";

/** What a deletion took away, to bring it back. */
const removals = new Map<TurnId, Turn[]>();
let hasAskedToPersist = false;

export const turnActions: TurnActions = {
  deleteChat(id) {
    for (const turn of getTree(id)?.turns.values() ?? []) stop(turn.id);
    void change({ chats: [chatUpdate(id, (chat) => ({ ...chat, deleted: Date.now() }))] });
  },
  send(id, text) {
    if (!text.trim()) return;
    void withTree(id, (tree, chat) => {
      const parent = path(tree).at(-1)?.turn ?? null;
      if (parent?.status === "writing") return;
      const question = newTurn(id, parent?.id ?? null, "user", { text });
      const drawn = answerTo(chat, question.id, chat.settings.sampling.seed);
      dropDraft(id);
      void addTurns(id, tree, [question, drawn], (old) => ({
        ...old,
        draft: "",
        title: old.title || titleOf(text),
      }));
      write(drawn);
      if (!hasAskedToPersist) void turnActions.persist();
    });
  },
  stop(id) {
    if (stop(id)) return;
    void change({
      turns: [
        turnUpdate(id, (turn) =>
          turn.status === "writing" ? { ...turn, status: "cut", finishReason: "stopped" } : turn,
        ),
      ],
    });
  },
  editQuestion(id, text) {
    withTurn(id, (turn, tree, chat) => {
      if (turn.role !== "user" || !text.trim()) return;
      const question = newTurn(turn.chat, turn.parent, "user", { text });
      const drawn = answerTo(chat, question.id, chat.settings.sampling.seed);
      void addTurns(turn.chat, tree, [question, drawn]);
      write(drawn);
    });
  },
  editAnswer(id, text) {
    withTurn(id, (turn, tree) => {
      if (turn.role !== "assistant") return;
      const { reasoning, model, leftOut } = turn;
      const fields = { text, reasoning, model, leftOut, isEdited: true } as const;
      void addTurns(turn.chat, tree, [newTurn(turn.chat, turn.parent, "assistant", fields)]);
    });
  },
  regenerate(id) {
    withTurn(id, (turn, tree, chat) => {
      const question = turn.role === "user" ? turn.id : turn.parent;
      if (!["user", "assistant"].includes(turn.role) || question === null) return;
      // With a fixed seed, too, another answer is wanted.
      const drawn = answerTo(chat, question);
      void addTurns(turn.chat, tree, [drawn]);
      write(drawn);
    });
  },
  continueAnswer(id) {
    withTurn(id, (turn) => void goOn(turn));
  },
  continueFrom(id, at, choice) {
    withTurn(id, (turn, tree) => void branchAt(turn, tree, at, choice));
  },
  replay: (id) => void replay(id),
  showTurn: (id) => withTurn(id, (turn, tree) => setActive(turn.chat, show(tree, id))),
  stepBranch: (id, by) => withTurn(id, (turn, tree) => setActive(turn.chat, step(tree, id, by))),
  async branchIntoChat(id) {
    const turn = getTurn(id);
    const [tree, chat] = [turn && getTree(turn.chat), turn && getChat(turn.chat)];
    if (!tree || !chat) return null;
    const copy: Chat = { ...newChat(chat.settings), title: chat.title, isTitled: chat.isTitled };
    const { turns, from } = copyBranch(tree, id, copy.id, newId);
    const tokens = await Promise.all(
      turns.map((each) => turnActions.loadTokens(from.get(each.id)!)),
    );
    addBlank(copy);
    await change({
      chats: [{ id: copy.id, make: (stored) => stored ?? copy }],
      turns: turns.map(newTurnUpdate),
      tokens: turns.flatMap((each, k) => (tokens[k] ? [{ turn: each.id, tokens: tokens[k] }] : [])),
    });
    return copy.id;
  },
  deleteTurn(id) {
    withTurn(id, (turn, tree) => {
      for (const below of descendants(tree, id)) stop(below.id);
      const { tree: left, removed } = remove(tree, id, Date.now());
      removals.set(id, removed);
      const deleted = new Map(removed.map((each) => [each.id, each.deleted]));
      setActive(turn.chat, left, {
        turns: removed.map(({ id: gone }) =>
          turnUpdate(gone, (each) => ({ ...each, deleted: deleted.get(gone) ?? null })),
        ),
      });
    });
  },
  undoDeleteTurn(id) {
    const removed = removals.get(id);
    withTurn(id, (turn, tree) => {
      if (!removed) return;
      const now = removed.map((each) => getTurn(each.id) ?? each);
      removals.delete(id);
      setActive(turn.chat, restore(tree, now).tree, {
        turns: removed.map((each) => turnUpdate(each.id, (old) => ({ ...old, deleted: null }))),
      });
    });
  },
  answerTool(id, callId, result) {
    withTurn(id, (turn, tree, chat) => {
      const below = resultsBelow(tree, turn);
      const call = turn.toolCalls.find((each) => each.id === callId);
      if (!call || below.some((each) => each.toolCallId === callId)) return;
      const parent = below.at(-1)?.id ?? turn.id;
      const fields = { text: result, toolCallId: callId };
      const given = newTurn(turn.chat, parent, "tool", fields);
      if (below.length + 1 < turn.toolCalls.length) {
        void addTurns(turn.chat, tree, [given]);
        return;
      }
      const drawn = answerTo(chat, given.id, chat.settings.sampling.seed);
      void addTurns(turn.chat, tree, [given, drawn]);
      write(drawn);
    });
  },

  loadTokens: async (id) => (await context.opened).tokens(id),
  loadPrompt,
  loadLayers,
  checkSchema,
  async persist() {
    hasAskedToPersist = true;
    return (await context.opened).persist();
  },
};

async function withTree(
  id: ChatId,
  work: (tree: Tree, chat: Chat) => void | Promise<void>,
): Promise<void> {
  await openChat(id);
  const [tree, chat] = [getTree(id), getChat(id)];
  if (tree && chat) await work(tree, chat);
}

function withTurn(id: TurnId, work: (turn: Turn, tree: Tree, chat: Chat) => void): void {
  const turn = getTurn(id);
  const [tree, chat] = [turn && getTree(turn.chat), turn && getChat(turn.chat)];
  if (turn && tree && chat) work(turn, tree, chat);
}

/** An answer that is about to be written. */
function answerTo(chat: Chat, parent: TurnId, seed = newSeed(), fields: Partial<Turn> = {}): Turn {
  const sampling = withoutSeed(chat.settings.sampling);
  const { system, schema, tools, toolChoice } = chat.settings;
  const asked = { system, schema, tools, toolChoice };
  const given = { status: "writing", seed, sampling, asked } as const;
  return newTurn(chat.id, parent, "assistant", { ...given, ...fields });
}

/** Add turns, each below the one before, and show them. */
function addTurns(
  id: ChatId,
  tree: Tree,
  turns: Turn[],
  more: (chat: Chat) => Chat = (chat) => chat,
): Promise<void> {
  const shown = turns.reduce(add, tree);
  const active = changedActive(tree, shown);
  const make = (chat: Chat): Chat =>
    more({ ...chat, changed: Date.now(), active: { ...chat.active, ...active } });
  return change({ chats: [chatUpdate(id, make)], turns: turns.map(newTurnUpdate) });
}

/** Show another branch; only what changed is written, so that tabs do not undo each other. */
function setActive(id: ChatId, tree: Tree, changes: Changes = {}): void {
  const old = getTree(id)!;
  const active = changedActive(old, tree);
  const make = (chat: Chat): Chat => ({ ...chat, active: { ...chat.active, ...active } });
  void change({ ...changes, chats: [chatUpdate(id, make)] });
}

function changedActive(old: Tree, next: Tree): Record<string, TurnId> {
  const changed = Object.entries(next.active).filter(([parent, id]) => old.active[parent] !== id);
  return Object.fromEntries(changed);
}

/** Continue a cut or failed answer in its place, with its own seed: as if it had never been cut. */
async function goOn(turn: Turn): Promise<void> {
  if (turn.role !== "assistant" || (turn.status !== "cut" && turn.status !== "failed")) return;
  const tokens = (await turnActions.loadTokens(turn.id)) ?? [];
  const ids = tokens.map((token) => token.id).filter((id) => id !== null);
  const isKnown = ids.length > 0 && ids.length === tokens.length;
  const begun: Turn = {
    ...turn,
    status: "writing",
    finishReason: null,
    failure: null,
    seed: turn.seed ?? newSeed(),
    streamId: null,
    streamEvents: 0,
    replay: null,
  };
  // The limit that cut it would cut it again at once.
  if (turn.finishReason === "length") begun.sampling = withoutLimit(turn.sampling ?? {});
  const { version: _, ...fields } = begun;
  void change({ turns: [turnUpdate(turn.id, (stored) => ({ ...stored, ...fields }))] });
  const isFinalMessage = !isKnown && turn.text !== "";
  write(begun, isKnown ? tokens : [], isKnown ? { ids } : isFinalMessage ? { isFinalMessage } : {});
}

function withoutLimit({ max_tokens: _, ...sampling }: Sampling): Sampling {
  return sampling;
}

/** Another answer: the tokens of this one up to one of them, another choice in its place, then on. */
async function branchAt(turn: Turn, tree: Tree, at: number, choice: Choice): Promise<void> {
  const tokens = (await turnActions.loadTokens(turn.id)) ?? [];
  const kept = tokens.slice(0, at);
  const ids = [...kept.map((token) => token.id), choice.id].filter((id) => id !== null);
  const chat = getChat(turn.chat);
  if (!chat || turn.parent === null || ids.length !== at + 1 || at >= tokens.length) return;
  const prefixText = [...kept, choice].map((token) => token.text).join("");
  const { leftOut, sampling, asked } = turn;
  const fields = { leftOut, sampling, asked, prefixText, prefixTokens: at + 1 };
  const drawn = answerTo(chat, turn.parent, turn.seed ?? newSeed(), fields);
  // Stored with it, so that a request which is lost can be made again.
  void change({ tokens: [{ turn: drawn.id, tokens: [...kept, { ...choice, top: [] }] }] });
  void addTurns(turn.chat, tree, [drawn]);
  write(drawn, [], { ids, echo: true });
}

/** The tool results below an answer on the branch that is shown. */
function resultsBelow(tree: Tree, turn: Turn): Turn[] {
  const found: Turn[] = [];
  for (let parent = turn; ; ) {
    const below = children(tree, parent.id).filter((each) => each.role === "tool");
    const next = below.find((each) => each.id === tree.active[parent.id]) ?? below.at(-1);
    if (!next) return found;
    found.push(next);
    parent = next;
  }
}
