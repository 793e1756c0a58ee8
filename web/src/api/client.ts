/** Asks the server: address, key, errors as the states that the page shows. */

import type { Failure, FailureKind } from "../model/types";

const DEFAULT_WAIT = 2000; // ms, where the server names none

export class ApiError extends Error {
  readonly failure: Failure;
  readonly status: number;
  /** Which field of the request it is about. */
  readonly param: string | null;
  readonly code: string | null;
  /** For how many milliseconds not to ask again. */
  readonly wait: number;

  constructor(
    kind: FailureKind,
    message: string,
    details: Partial<Pick<ApiError, "status" | "param" | "code" | "wait">> = {},
  ) {
    super(message);
    this.failure = { kind, message };
    this.status = details.status ?? 0;
    this.param = details.param ?? null;
    this.code = details.code ?? null;
    this.wait = details.wait ?? DEFAULT_WAIT;
  }
}

export interface Asked {
  method?: "GET" | "POST" | "DELETE";
  body?: unknown;
  signal?: AbortSignal;
}

export class Client {
  readonly #base: string;
  readonly #key: () => string;

  /**
   * @param base address of the folder that the page lies in: the server's prefix is in it.
   * @param key gives the API key, or "".
   */
  constructor(base: string, key: () => string) {
    this.#base = base;
    this.#key = key;
  }

  /** Return the response, which is ok. Raises ApiError; or AbortError where `signal` said so. */
  async ask(path: string, asked: Asked = {}): Promise<Response> {
    const response = await this.askAny(path, asked);
    if (!response.ok) throw await errorOf(response);
    return response;
  }

  /** As `ask`, but an error's response is returned, too. */
  async askAny(path: string, asked: Asked = {}): Promise<Response> {
    const headers: Record<string, string> = {};
    const key = this.#key();
    if (key) headers.Authorization = `Bearer ${key}`;
    const init: RequestInit = { method: asked.method ?? "GET", headers, cache: "no-store" };
    if (asked.body !== undefined) {
      headers["Content-Type"] = "application/json";
      init.body = JSON.stringify(asked.body);
    }
    if (asked.signal) init.signal = asked.signal;
    try {
      return await fetch(new URL(path, this.#base), init);
    } catch (error) {
      if (asked.signal?.aborted) throw error;
      throw new ApiError("gone", "The server does not answer.");
    }
  }

  async json<Value>(path: string, asked: Asked = {}): Promise<Value> {
    const response = await this.ask(path, asked);
    return (await response.json()) as Value;
  }
}

async function errorOf(response: Response): Promise<ApiError> {
  const { message, param, code } = await wordsOf(response);
  const seconds = Number(response.headers.get("Retry-After") ?? Number.NaN);
  const wait = Number.isFinite(seconds) ? seconds * 1000 : DEFAULT_WAIT;
  return new ApiError(kindOf(response.status, code), message || `HTTP ${response.status}`, {
    status: response.status,
    param,
    code,
    wait,
  });
}

interface Words {
  message: string;
  param: string | null;
  code: string | null;
}

async function wordsOf(response: Response): Promise<Words> {
  try {
    const body = (await response.json()) as { error?: Partial<Words>; reason?: string };
    const { message, param, code } = body.error ?? {};
    return {
      message: typeof message === "string" ? message : (body.reason ?? ""),
      param: param ?? null,
      code: code ?? null,
    };
  } catch {
    return { message: "", param: null, code: null }; // of a proxy: no JSON
  }
}

export function kindOf(status: number, code: string | null): FailureKind {
  if (code === "context_length_exceeded") return "context";
  if (status === 401) return "key";
  if (status === 429) return "full";
  if (status === 503) return "loading";
  if (status === 502 || status === 504) return "gone"; // a proxy in front of a server that is gone
  if (status >= 500) return "engine";
  return "refused";
}

/** The folder that the page lies in, with a slash at the end. */
export function ownBase(): string {
  return new URL(".", document.baseURI).href;
}
