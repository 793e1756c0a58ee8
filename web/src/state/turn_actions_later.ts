/** Actions on turns that are called before they were loaded wait for that, in their order. */

import { arrived } from "./arrive";
import type { Actions } from "./contract";

const NAMES = [
  "deleteChat",
  "send",
  "stop",
  "editQuestion",
  "editAnswer",
  "regenerate",
  "continueAnswer",
  "continueFrom",
  "replay",
  "showTurn",
  "stepBranch",
  "branchIntoChat",
  "deleteTurn",
  "undoDeleteTurn",
  "answerTool",
  "loadTokens",
  "loadPrompt",
  "loadLayers",
  "checkSchema",
  "persist",
] as const;

export type TurnActions = Pick<Actions, (typeof NAMES)[number]>;

let loaded: TurnActions | null = null;
let loading: Promise<TurnActions> | null = null;

export function loadTurnActions(): Promise<TurnActions> {
  loading ??= arrived(() => import("./turn_actions")).then(({ turnActions }) => {
    loaded = turnActions;
    return turnActions;
  });
  return loading;
}

type Call = (...given: unknown[]) => unknown;

const calls = NAMES.map((name) => {
  const call: Call = (...given) => {
    const now = (actions: TurnActions) => (actions[name] as Call)(...given);
    return loaded ? now(loaded) : loadTurnActions().then(now);
  };
  return [name, call] as const;
});

export const whenLoaded = Object.fromEntries(calls) as unknown as TurnActions;
