/**
 * What views may do. Every action is safe to call at any time: it does nothing where there is
 * nothing to do, and what goes wrong appears as state (a turn's failure, the server's, the storage's).
 */

import type {
  Chat,
  ChatId,
  ChatSettings,
  Choice,
  ImportReport,
  Place,
  Preset,
  PromptView,
  Sampling,
  SearchHit,
  Settings,
  TokenLayers,
  TokenRecord,
  Tool,
  Turn,
  TurnId,
} from "../model";

/** A chat with the branch that is shown. */
export interface ChatView {
  chat: Chat;
  /** The branch that is shown; with each turn its place among its siblings. */
  path: Place[];
  /** Turns at the beginning that are not in the next prompt, since the context is full. */
  leftOut: number;
  /** Tokens of the next prompt so far, as the last answer's figures say; null: not known. */
  usedTokens: number | null;
}

export interface Actions {
  // --- chats
  /** Make an empty chat and return its id; it is stored with its first turn or draft. */
  newChat(): ChatId;
  /** The preset that a new chat has: that of the last one. */
  presetOfNew(): string | null;
  rename(chat: ChatId, title: string): void;
  setPinned(chat: ChatId, pinned: boolean): void;
  /** Delete at once; `undoDelete` brings it back. */
  deleteChat(chat: ChatId): void;
  undoDelete(chat: ChatId): void;
  setDraft(chat: ChatId, text: string): void;
  updateSettings(chat: ChatId, change: Partial<ChatSettings>): void;
  /** Change sampling parameters; undefined takes one back to the server's default. */
  updateSampling(
    chat: ChatId,
    change: { [name in keyof Sampling]?: Sampling[name] | undefined },
  ): void;
  applyPreset(chat: ChatId, preset: Preset): void;
  savePreset(chat: ChatId, name: string): void;
  removePreset(id: string): void;

  // --- turns
  /** Ask: adds the question, then writes the answer. Its draft is emptied. */
  send(chat: ChatId, text: string): void;
  stop(turn: TurnId): void;
  /** Edit a question: another branch, which is answered. */
  editQuestion(turn: TurnId, text: string): void;
  /** Edit an answer: another branch, with this text as it stands. */
  editAnswer(turn: TurnId, text: string): void;
  regenerate(turn: TurnId): void;
  /** Continue an answer that was cut, in its place. */
  continueAnswer(turn: TurnId): void;
  /** Another branch: the answer up to token `at` (from 0), this choice in its place, then on. */
  continueFrom(turn: TurnId, at: number, choice: Choice): void;
  /** Ask the same with the same seed, compare token by token; `turn.replay` says what came out. */
  replay(turn: TurnId): void;
  showTurn(turn: TurnId): void;
  /** Show the earlier (-1) or later (+1) sibling. */
  stepBranch(turn: TurnId, by: -1 | 1): void;
  /** Copy the branch up to this turn into a new chat; returns its id. */
  branchIntoChat(turn: TurnId): Promise<ChatId | null>;
  deleteTurn(turn: TurnId): void;
  undoDeleteTurn(turn: TurnId): void;
  /** Give a tool's result by hand; when all calls of the answer have one, the model goes on. */
  answerTool(turn: TurnId, callId: string, result: string): void;

  // --- looking inside
  loadTokens(turn: TurnId): Promise<TokenRecord[] | null>;
  /** The exact prompt that an answer had, as the server writes it now. */
  loadPrompt(turn: TurnId): Promise<PromptView | { error: string }>;
  /** What each layer would have said in place of token `at` of an answer. */
  loadLayers(
    turn: TurnId,
    at: number,
    signal: AbortSignal,
  ): Promise<TokenLayers | { error: string }>;
  /** Whether the server takes a JSON schema; `line` of the text where it is wrong, from 1. */
  checkSchema(text: string): Promise<SchemaVerdict>;
  checkTools(text: string): { tools: Tool[] } | { error: string };

  // --- all chats
  search(query: string): Promise<SearchHit[]>;
  /** One chat, or all: a file to save. */
  exportChats(form: "json" | "jsonl", chat?: ChatId): Promise<Blob>;
  /** `told` hears what was stored so far, and the share of the file, 0 to 1; `signal` ends it. */
  importChats(
    file: Blob,
    told?: (report: ImportReport, share: number) => void,
    signal?: AbortSignal,
  ): Promise<ImportReport>;
  /** Ask the browser to keep the chats; called by the first send. */
  persist(): Promise<boolean>;
  storageUse(): Promise<{ chats: number; bytes: number | null }>;

  // --- the server and this browser
  setSettings(change: Partial<Settings>): void;
  setKey(key: string): void;
  /** The key of this tab; "" where none was given. */
  getKey(): string;
  retryNow(): void;
}

export type SchemaVerdict =
  | { ok: true; milliseconds: number | null }
  | { ok: false; message: string; line: number | null; keyword: string | null };

export type { Turn };
