import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  add,
  ancestry,
  children,
  copyBranch,
  descendants,
  EMPTY,
  newTurn,
  path,
  remove,
  restore,
  show,
  siblings,
  step,
  type Tree,
  tip,
} from "../../src/model";

/** A step of a reader: which turn it is about, as a place among all, and what is done there. */
const steps = fc.array(
  fc.record({
    place: fc.nat(),
    what: fc.constantFrom("below", "beside", "show", "earlier", "later", "remove", "restore"),
  }),
  { maxLength: 40 },
);

type Steps = { place: number; what: string }[];

function play(given: Steps): { tree: Tree; made: number } {
  let tree = EMPTY;
  let made = 0;
  let removed: ReturnType<typeof remove>["removed"] = [];
  for (const { place, what } of given) {
    const all = [...tree.turns.values()].filter((turn) => turn.deleted === null);
    const turn = all[place % Math.max(1, all.length)];
    if (what === "below" || !turn) {
      tree = add(tree, newTurn("c", turn?.id ?? null, made++ % 2 ? "assistant" : "user"));
    } else if (what === "beside") {
      tree = add(tree, newTurn("c", turn.parent, turn.role));
      made++;
    } else if (what === "show") tree = show(tree, turn.id);
    else if (what === "earlier") tree = step(tree, turn.id, -1);
    else if (what === "later") tree = step(tree, turn.id, 1);
    else if (what === "remove") ({ tree, removed } = remove(tree, turn.id, 1));
    else if (removed.length) ({ tree } = restore(tree, removed));
  }
  return { tree, made };
}

describe("a tree of turns", () => {
  test("loses nothing, whatever is done to it", () => {
    fc.assert(
      fc.property(steps, (given) => {
        const { tree, made } = play(given);
        expect(tree.turns.size).toBe(made);
      }),
    );
  });

  test("shows one branch, from a first turn to one without children", () => {
    fc.assert(
      fc.property(steps, (given) => {
        const { tree } = play(given);
        const shown = path(tree);
        for (const [k, { turn, index, count }] of shown.entries()) {
          expect(turn.deleted).toBeNull();
          expect(turn.parent).toBe(shown[k - 1]?.turn.id ?? null);
          const family = siblings(tree, turn.id);
          expect([family[index], family.length]).toEqual([turn, count]);
        }
        const last = tip(tree);
        expect(children(tree, last?.id ?? null)).toEqual([]);
      }),
    );
  });

  test("shows a turn when it is asked to", () => {
    fc.assert(
      fc.property(steps, fc.nat(), (given, place) => {
        const { tree } = play(given);
        const all = [...tree.turns.values()].filter((turn) =>
          ancestry(tree, turn.id).every((above) => above.deleted === null),
        );
        const turn = all[place % Math.max(1, all.length)];
        if (!turn) return;
        expect(path(show(tree, turn.id)).map((shown) => shown.turn.id)).toContain(turn.id);
      }),
    );
  });

  test("is as before when a removal is undone", () => {
    fc.assert(
      fc.property(steps, fc.nat(), (given, place) => {
        const { tree } = play(given);
        const shown = path(tree);
        const turn = shown[place % Math.max(1, shown.length)]?.turn;
        if (!turn) return;
        const below = descendants(tree, turn.id);
        const { tree: left, removed } = remove(tree, turn.id, 7);
        expect(removed.map((each) => each.id)).toEqual(below.map((each) => each.id));
        expect(path(left).some((each) => each.turn.id === turn.id)).toBe(false);
        const { tree: back } = restore(left, removed);
        expect(path(back).map((each) => each.turn.id)).toEqual(shown.map((each) => each.turn.id));
        expect(new Map(back.turns)).toEqual(new Map(tree.turns));
      }),
    );
  });

  test("gives a branch of its own, whose turns are copies in order", () => {
    fc.assert(
      fc.property(steps, (given) => {
        const { tree } = play(given);
        const last = tip(tree);
        if (!last) return;
        let number = 0;
        const { turns, from } = copyBranch(tree, last.id, "other", () => `copy ${number++}`);
        expect(turns.map((turn) => from.get(turn.id))).toEqual(
          ancestry(tree, last.id).map((turn) => turn.id),
        );
        expect(turns.map((turn) => turn.parent)).toEqual(
          turns.map((_, k) => turns[k - 1]?.id ?? null),
        );
        expect(turns.every((turn) => turn.chat === "other" && !tree.turns.has(turn.id))).toBe(true);
      }),
    );
  });

  test("with a circle, as a damaged file may have one, is shown all the same", () => {
    const a = newTurn("c", "b", "user", { id: "a" });
    const b = newTurn("c", "a", "assistant", { id: "b" });
    const tree = { turns: new Map([a, b].map((turn) => [turn.id, turn])), active: {} };
    expect(path(tree)).toEqual([]);
    expect(ancestry(tree, "a")).toHaveLength(2);
  });
});
