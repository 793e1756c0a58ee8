/**
 * The turns of a chat as a tree, and what can be done to it. Pure: every function returns a new tree.
 *
 * No function removes or changes a turn that exists, but `remove`, which marks it as deleted, and
 * `restore`, which takes the mark off.
 */

import type { Turn, TurnId } from "./types";

export interface Tree {
  readonly turns: ReadonlyMap<TurnId, Turn>;
  /** Which child of a turn is shown; the key of the first turns' parent is "". */
  readonly active: Readonly<Record<string, TurnId>>;
}

export const EMPTY: Tree = { turns: new Map(), active: {} };

export function treeOf(turns: Iterable<Turn>, active: Readonly<Record<string, TurnId>>): Tree {
  return { turns: new Map(Array.from(turns, (turn) => [turn.id, turn])), active };
}

const key = (parent: TurnId | null): string => parent ?? "";

/** A turn's children that are not deleted, oldest first; null: the first turns. */
export function children(tree: Tree, parent: TurnId | null): Turn[] {
  const found: Turn[] = [];
  for (const turn of tree.turns.values()) {
    if (turn.parent === parent && turn.deleted === null) found.push(turn);
  }
  return found.sort(inOrder);
}

function inOrder(a: Turn, b: Turn): number {
  return a.created - b.created || (a.id < b.id ? -1 : 1);
}

/** All children by parent, made once: for walks over the whole tree. */
function families(tree: Tree): Map<string, Turn[]> {
  const byParent = new Map<string, Turn[]>();
  for (const turn of tree.turns.values()) {
    if (turn.deleted !== null) continue;
    const family = byParent.get(key(turn.parent));
    if (family) family.push(turn);
    else byParent.set(key(turn.parent), [turn]);
  }
  for (const family of byParent.values()) family.sort(inOrder);
  return byParent;
}

export interface Place {
  turn: Turn;
  /** Its place among its siblings, from 0, and their number. */
  index: number;
  count: number;
}

/** The branch that is shown, from the first turn to the last. */
export function path(tree: Tree): Place[] {
  const byParent = families(tree);
  const shown: Place[] = [];
  const seen = new Set<TurnId>();
  let parent: TurnId | null = null;
  for (;;) {
    const family: Turn[] | undefined = byParent.get(key(parent));
    if (!family?.length) return shown;
    const chosen = tree.active[key(parent)];
    const found = family.findIndex((turn) => turn.id === chosen);
    const index = found < 0 ? family.length - 1 : found;
    const turn = family[index]!;
    if (seen.has(turn.id)) return shown; // a damaged import may have a circle
    seen.add(turn.id);
    shown.push({ turn, index, count: family.length });
    parent = turn.id;
  }
}

/** The last turn of the branch that is shown. */
export function tip(tree: Tree): Turn | null {
  return path(tree).at(-1)?.turn ?? null;
}

/** From the first turn to this one, itself included. */
export function ancestry(tree: Tree, id: TurnId): Turn[] {
  const line: Turn[] = [];
  const seen = new Set<TurnId>();
  let next: TurnId | null = id;
  while (next !== null && !seen.has(next)) {
    seen.add(next);
    const turn: Turn | undefined = tree.turns.get(next);
    if (!turn) break;
    line.push(turn);
    next = turn.parent;
  }
  return line.reverse();
}

/** A turn's siblings, itself among them, oldest first. */
export function siblings(tree: Tree, id: TurnId): Turn[] {
  const turn = tree.turns.get(id);
  return turn ? children(tree, turn.parent) : [];
}

/** Add a turn and show it. Its parent is in the tree, or null. */
export function add(tree: Tree, turn: Turn): Tree {
  const turns = new Map(tree.turns).set(turn.id, turn);
  return show({ turns, active: tree.active }, turn.id);
}

/** Put a new state of a turn in the place of the old one. */
export function replace(tree: Tree, turn: Turn): Tree {
  return { ...tree, turns: new Map(tree.turns).set(turn.id, turn) };
}

/** Show the branch that a turn is on; below it stays chosen what was. */
export function show(tree: Tree, id: TurnId): Tree {
  const active = { ...tree.active };
  for (const turn of ancestry(tree, id)) active[key(turn.parent)] = turn.id;
  return { ...tree, active };
}

/** Show an earlier (-1) or later (+1) sibling; at the ends nothing changes. */
export function step(tree: Tree, id: TurnId, by: -1 | 1): Tree {
  const family = siblings(tree, id);
  const other = family[family.findIndex((turn) => turn.id === id) + by];
  return other ? show(tree, other.id) : tree;
}

/** Mark a turn and all below it as deleted, and show what is left beside it. */
export function remove(tree: Tree, id: TurnId, now: number): { tree: Tree; removed: Turn[] } {
  const below = descendants(tree, id);
  const family = siblings(tree, id);
  const at = family.findIndex((turn) => turn.id === id);
  const beside = family[at + 1] ?? family[at - 1];
  const removed = below.map((turn) => ({ ...turn, deleted: now }));
  const turns = new Map(tree.turns);
  for (const turn of removed) turns.set(turn.id, turn);
  const left: Tree = { turns, active: tree.active };
  return { tree: beside ? show(left, beside.id) : left, removed };
}

/** Take the mark of `remove` off, and show the first of them again. */
export function restore(tree: Tree, removed: readonly Turn[]): { tree: Tree; restored: Turn[] } {
  const restored = removed.map((turn) => ({ ...turn, deleted: null }));
  const turns = new Map(tree.turns);
  for (const turn of restored) turns.set(turn.id, turn);
  const back: Tree = { turns, active: tree.active };
  return { tree: restored[0] ? show(back, restored[0].id) : back, restored };
}

/** A turn and all below it that are not deleted, parents first. */
export function descendants(tree: Tree, id: TurnId): Turn[] {
  const byParent = families(tree);
  const first = tree.turns.get(id);
  if (!first || first.deleted !== null) return [];
  const found = [first];
  const seen = new Set([id]);
  for (let k = 0; k < found.length; k++) {
    for (const turn of byParent.get(found[k]!.id) ?? []) {
      if (!seen.has(turn.id)) found.push(turn);
      seen.add(turn.id);
    }
  }
  return found;
}

/** Copies of the turns up to one, under new ids and for another chat: a branch of its own. */
export function copyBranch(
  tree: Tree,
  id: TurnId,
  chat: string,
  makeId: () => TurnId,
): { turns: Turn[]; from: Map<TurnId, TurnId> } {
  const from = new Map<TurnId, TurnId>();
  const turns = ancestry(tree, id).map((turn): Turn => {
    const copy = makeId();
    from.set(copy, turn.id);
    const parent = turn.parent === null ? null : ([...from.keys()].at(-2) ?? null);
    const isUnfinished = turn.status === "writing";
    return {
      ...turn,
      id: copy,
      chat,
      parent,
      status: isUnfinished ? "cut" : turn.status,
      finishReason: isUnfinished ? "stopped" : turn.finishReason,
      streamId: null,
      streamEvents: 0,
      replay: turn.replay?.same ? turn.replay : null, // another branch is not in this chat
      version: 0,
    };
  });
  return { turns, from };
}
