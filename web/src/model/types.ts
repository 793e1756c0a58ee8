/**
 * What the page keeps and shows: chats, their turns as a tree, settings, and the server's figures.
 *
 * Chats, turns and token records are stored as they stand here (IndexedDB, exports): plain data.
 */

export type ChatId = string;
export type TurnId = string;

export type Role = "system" | "user" | "assistant" | "tool";

/**
 * writing: an answer that is under way, here or in another tab, or was when the page was left.
 * cut: it ended before its end: a limit, a stop by the reader, a lost stream; can be continued.
 * failed: nothing more will come and something was wrong: see `failure`.
 */
export type TurnStatus = "writing" | "done" | "cut" | "failed";

/** stop: the model ended it. length: the limit. tool_calls: it calls tools. stopped: the reader. lost: the stream is gone. */
export type FinishReason = "stop" | "length" | "tool_calls" | "stopped" | "lost" | "error";

/** One of the model's choices for a token, by its own probability: before bias and temperature. */
export interface Choice {
  /** null where the server did not tell it. */
  id: number | null;
  /** The token's text; of bytes that are no character alone, the replacement character. */
  text: string;
  logprob: number;
}

/** One token that was written, with the likeliest choices that stood beside it. */
export interface TokenRecord extends Choice {
  /** Likeliest first; may contain the token itself. */
  top: Choice[];
}

export interface ToolCall {
  id: string;
  name: string;
  /** JSON text, which may be incomplete while it is written. */
  arguments: string;
}

/** Figures of one answer, as measured by the server. Unknown ones are null, never guessed. */
export interface TurnStats {
  /** Tokens written. */
  tokens: number;
  /** Tokens a second, after the first. */
  rate: number | null;
  /** Seconds from the request to the first token. */
  firstToken: number | null;
  promptTokens: number | null;
  /** Of these, how many came from the prefix cache. */
  cachedTokens: number | null;
  /** Seconds that the reasoning took, and its tokens. */
  reasoningSeconds: number | null;
  reasoningTokens: number | null;
}

export interface Failure {
  kind: FailureKind;
  /** The server's own words, or ours where it has none. */
  message: string;
}

/**
 * gone: nobody answers. loading: 503. full: 429. key: 401. refused: 400, the request cannot be done.
 * context: the prompt is longer than the context. engine: the engine stopped. lost: the stream is not kept any more.
 */
export type FailureKind =
  | "gone"
  | "loading"
  | "full"
  | "key"
  | "refused"
  | "context"
  | "engine"
  | "lost"
  | "other";

/** Every sampling parameter of the server; what is missing is left to the server's default. */
export interface Sampling {
  temperature?: number;
  top_p?: number;
  top_k?: number;
  min_p?: number;
  repetition_penalty?: number;
  presence_penalty?: number;
  frequency_penalty?: number;
  /** Missing: a new one is drawn for each answer, shown and kept with it. */
  seed?: number;
  max_tokens?: number;
  stop?: string[];
  speculation?: number;
  ignore_eos?: boolean;
}

export type SamplingName = keyof Sampling;

export interface Preset {
  /** "precise", "balanced" and "free" are built in; own ones have random ids. */
  id: string;
  name: string;
  sampling: Sampling;
  isOwn: boolean;
}

export interface Tool {
  name: string;
  description: string;
  /** A JSON schema. */
  parameters: unknown;
}

/** What is sent with a prompt besides its turns and sampling. */
export interface Asked {
  system: string;
  /** A JSON schema as typed; null: answers are free. */
  schema: string | null;
  tools: Tool[];
  toolChoice: "auto" | "none" | "required";
}

/** What is sent with every prompt of a chat. */
export interface ChatSettings extends Asked {
  sampling: Sampling;
  /** The preset that `sampling` came from; null where it was changed since. */
  preset: string | null;
}

export interface Turn {
  id: TurnId;
  chat: ChatId;
  /** null for the first turn of a chat. */
  parent: TurnId | null;
  role: Role;
  /** Milliseconds since the epoch; orders siblings. */
  created: number;
  text: string;
  reasoning: string;
  toolCalls: ToolCall[];
  /** role tool: which call this answers. */
  toolCallId: string | null;
  status: TurnStatus;
  finishReason: FinishReason | null;
  failure: Failure | null;
  stats: TurnStats | null;
  /** The seed that was used; known before the first token. */
  seed: number | null;
  /** The sampling it was written with; null for turns that nobody sampled. */
  sampling: Sampling | null;
  /** What else was sent with its prompt; null for turns that nobody asked for. */
  asked: Asked | null;
  model: string | null;
  /** Whether `tokens` are stored (see `loadTokens`). */
  hasTokens: boolean;
  /** One number for each token of the strip in the margin: 0 (certain) to 1 (surprising). */
  strip: number[];
  /** Tokens at the beginning that were given, not drawn: of a continuation. */
  prefixTokens: number;
  /** Its text and reasoning begin with these characters of a prefix. */
  prefixText: string;
  /** Turns at the beginning of its branch that were not in its prompt, since the context was full. */
  leftOut: number;
  /** Of the server's stored stream; null before its first event. */
  streamId: string | null;
  /** Events of that stream that are in here. */
  streamEvents: number;
  /** What the last replay of this answer found. */
  replay: ReplayResult | null;
  /** An answer written by hand (an edited one): nothing to replay. */
  isEdited: boolean;
  /** When it was deleted; purged some time after. */
  deleted: number | null;
  /** Grows with every write, by any tab. */
  version: number;
}

export type ReplayResult =
  | { same: true }
  /** `branch` holds the replay, which differs from token `at` on (counted from 0). */
  | { same: false; at: number; branch: TurnId };

export interface Chat {
  id: ChatId;
  title: string;
  /** Whether the reader gave the title; others are made from the first question. */
  isTitled: boolean;
  pinned: boolean;
  created: number;
  /** When a turn was last added; orders the list. */
  changed: number;
  settings: ChatSettings;
  draft: string;
  /** Which child of a turn is shown; the key of the first turns' parent is "". */
  active: Record<string, TurnId>;
  deleted: number | null;
  version: number;
}

/** A row of the list of chats. */
export interface ChatSummary {
  id: ChatId;
  title: string;
  pinned: boolean;
  changed: number;
  /** Whether an answer is being written, in any tab. */
  isWriting: boolean;
}

export interface SearchHit {
  chat: ChatId;
  title: string;
  turn: TurnId | null;
  /** A line of text with the match; null where the title matched. */
  line: string | null;
  /** Where the match is, in `line` or in `title`. */
  start: number;
  end: number;
}

export type Theme = "system" | "light" | "dark";
export type Language = "en" | "zh";

/** Of this browser, not of a chat. */
export interface Settings {
  theme: Theme;
  language: Language;
  enterSends: boolean;
  notes: boolean;
  singleKeys: boolean;
  presets: Preset[];
}

// --- the server ----------------------------------------------------------------------------------

export interface ServerProps {
  model: string;
  /** Of format and device: "GGUF Q4_K_M · cpu · weights as stored · 2 threads · avx512". */
  description: string;
  contextLength: number;
  cacheTokens: number | null;
  /** Tokens that the model chooses among. */
  vocabulary: number | null;
  defaults: Sampling;
  hasChatTemplate: boolean;
  restarts: number;
  /** Layers of a chosen token: the logit lens. Absent where the backend offers none. */
  hasLayers: boolean;
}

export interface LoadProgress {
  model: string;
  done: number;
  total: number;
}

/** ready: requests are taken. Each other state says why not. */
export type ServerState =
  | { kind: "connecting" }
  | { kind: "ready"; props: ServerProps }
  /** `progress`: how many weights were read, and of how many; null where not told. */
  | { kind: "loading"; reason: string; progress: LoadProgress | null }
  /** `retryAt`: milliseconds since the epoch of the next try. */
  | { kind: "gone"; retryAt: number }
  | { kind: "full"; waiting: number | null; retryAt: number }
  | { kind: "key"; isWrong: boolean }
  | { kind: "failed"; message: string };

/** A replay under way: tokens compared so far, and how many the answer has. */
export interface ReplayProgress {
  done: number;
  total: number;
}

/** What the browser's storage says of itself. */
export type StorageState =
  | { kind: "ok"; isPersistent: boolean; usedBytes: number | null }
  /** full: quota. forbidden: private mode, or switched off. New turns stay in this tab only. */
  | { kind: "full" | "forbidden"; message: string };

export interface EngineRequest {
  /** null where it is another's. */
  turn: TurnId | null;
  chat: ChatId | null;
  route: string;
  stage: "waiting" | "prefill" | "decode";
  promptTokens: number;
  /** Of the prompt: found in the cache, and computed so far (cached ones included). */
  cachedTokens: number;
  computedTokens: number;
  drawnTokens: number;
  maxTokens: number | null;
}

export interface EngineBlocks {
  size: number;
  total: number;
  free: number;
  cached: number;
  referenced: number;
  /** Of this chat's request; null where not told. */
  own: number | null;
}

export interface EngineStep {
  seconds: number;
  promptTokens: number;
  decodeTokens: number;
}

export interface RooflinePoint {
  kind: "decode" | "prefill" | "single";
  /** FLOP per byte. */
  intensity: number;
  /** FLOP a second. */
  flops: number;
  /** Of the limit at that intensity. */
  share: number;
}

export interface EngineState {
  /** False while hidden, or where nothing came for a second: the figures are old. */
  isLive: boolean;
  tokensPerSecond: number | null;
  running: EngineRequest[];
  waiting: EngineRequest[];
  /** Of prompt tokens, from the cache: 0 to 1. */
  cachedShare: number | null;
  blocks: EngineBlocks | null;
  /** Oldest first, at most 60. */
  steps: EngineStep[];
  roofline: { bandwidth: number; compute: number; points: RooflinePoint[] } | null;
  restarts: number;
}

/** The exact prompt of an answer, for the X-ray. */
export interface PromptToken {
  id: number;
  text: string;
  isControl: boolean;
  bytes: number[];
}

export interface PromptPart {
  role: Role | "next";
  /** Index of the first token, and behind the last. */
  start: number;
  end: number;
}

export interface PromptView {
  text: string;
  tokens: PromptToken[];
  parts: PromptPart[];
  /** Tokens at the beginning that came from the cache when it was answered; null: not known. */
  cached: number | null;
}

/** What each layer would have said in place of one token, and what the model looked at for it. */
export interface TokenLayers {
  /** The embedding's (null), then each layer's from 1: its likeliest token, and the written one. */
  states: {
    layer: number | null;
    probability: number;
    rank: number;
    likeliest: { text: string; probability: number };
  }[];
  /** Largest weight first, the mean of all heads of all layers. `isFirst`: of the whole text. */
  sources: { isFirst: boolean; text: string; weight: number }[];
}

/** An answer while it is written: what the view shows before it is stored. */
export interface LiveTurn {
  id: TurnId;
  phase: "queued" | "reading" | "writing";
  text: string;
  reasoning: string;
  toolCalls: ToolCall[];
  tokens: number;
  strip: readonly number[];
  rate: number | null;
  firstToken: number | null;
  /** While the prompt is read; null until the server told. `seconds`: about how long it still takes. */
  progress: { done: number; total: number; cached: number; seconds: number | null } | null;
  /** Reasoning is being written since (performance.now()); null: not now. */
  reasoningSince: number | null;
  seed: number | null;
  /** The connection is lost and being made again. */
  isReconnecting: boolean;
}

export interface ImportReport {
  chats: number;
  turns: number;
  damaged: number;
  /** What was wrong, a line each, at most 20. */
  notes: string[];
  /** Why the rest of the file was not read; the counts are of what was stored before. */
  stopped: "cancelled" | "full" | "forbidden" | null;
}
