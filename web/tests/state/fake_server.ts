/** A server in place of `fetch`: it streams tokens, keeps its streams, and fails when it is told to. */

import { vi } from "vitest";

export const PROPS = {
  ...{ model: "m", description: "m · GGUF · cpu", context_length: 512, cache_tokens: 4096 },
  ...{ default_params: { temperature: 1 }, has_chat_template: true, engine_restarts: 0 },
};

export interface Asked {
  path: string;
  method: string;
  body: Record<string, unknown>;
}

interface Kept {
  events: string[];
}

export class FakeServer {
  asked: Asked[] = [];
  /** What the next answers are, token by token; by seed, so that a replay gives the same. */
  answer: (body: Record<string, unknown>) => string[] = () => ["Hel", "lo", "."];
  finishReason = "stop";
  /** After how many events the next connections break; none: they do not. */
  breaks: number[] = [];
  /** What the next requests for an answer are refused with. */
  refusals: { status: number; error: Record<string, unknown>; headers?: Record<string, string> }[] =
    [];
  countTokens: (messages: unknown[]) => number = () => 3;
  streams = new Map<string, Kept>();
  isGone = false;
  #number = 0;

  install(): void {
    vi.stubGlobal("fetch", (url: URL | string, init: RequestInit = {}) =>
      this.#fetch(new URL(url), init),
    );
  }

  completions(): Record<string, unknown>[] {
    return this.asked.filter(({ path }) => path.endsWith("completions")).map(({ body }) => body);
  }

  async #fetch(url: URL, init: RequestInit): Promise<Response> {
    const path = url.pathname;
    const body = init.body ? (JSON.parse(String(init.body)) as Record<string, unknown>) : {};
    this.asked.push({ path, method: init.method ?? "GET", body });
    if (this.isGone) throw new TypeError("fetch failed");
    if (path === "/health") return Response.json({ status: "ok", reason: "" });
    if (path === "/props") return Response.json(PROPS);
    if (path === "/apply-template") {
      const tokens = Array(this.countTokens(body.messages as unknown[])).fill(1);
      return Response.json({ prompt: "", tokens });
    }
    if (path === "/v1/chat/completions") return this.#complete(body, init);
    const kept = this.streams.get(path.replace("/v1/streams/", ""));
    if (!kept) return refusal(404, { message: "there is no stream" });
    if (init.method === "DELETE") return Response.json({});
    return this.#stream(kept, Number(url.searchParams.get("from")), init);
  }

  #complete(body: Record<string, unknown>, init: RequestInit): Response {
    const refused = this.refusals.shift();
    if (refused) return refusal(refused.status, refused.error, refused.headers);
    const id = `chatcmpl-${++this.#number}`;
    const kept = { events: this.#events(id, body) };
    this.streams.set(id, kept);
    return this.#stream(kept, 0, init);
  }

  #events(id: string, body: Record<string, unknown>): string[] {
    const head = { id, model: "m" };
    const given = body.echo ? (body.answer_token_ids as number[]) : [];
    const written = [...given.map((token) => `<${token}>`), ...this.answer(body)];
    const chunks: unknown[] = [
      { ...head, choices: [{ index: 0, delta: { role: "assistant" }, seed: body.seed }] },
    ];
    for (const text of written) {
      const token = { token: text, token_id: idOf(text), logprob: -0.5 };
      const logprobs = { content: [{ ...token, top_logprobs: [token] }] };
      chunks.push({
        ...head,
        choices: [{ index: 0, delta: { content: text }, logprobs, token_ids: [idOf(text)] }],
      });
    }
    const end = { index: 0, delta: {}, finish_reason: this.finishReason };
    const [cache_n, prompt_n, prompt_ms] = [8, 4, 20];
    const timings = { cache_n, prompt_n, prompt_ms, predicted_n: 3, predicted_per_second: 50 };
    chunks.push({ ...head, choices: [end], timings });
    return [...chunks.map((chunk) => JSON.stringify(chunk)), "[DONE]"];
  }

  #stream(kept: Kept, from: number, init: RequestInit): Response {
    const breakAt = this.breaks.shift();
    let next = from;
    const end = breakAt === undefined ? Number.POSITIVE_INFINITY : from + breakAt;
    const body = new ReadableStream<Uint8Array>({
      async pull(controller) {
        await new Promise((resolve) => setTimeout(resolve, 1));
        if (init.signal?.aborted) return controller.error(init.signal.reason);
        if (next >= end) return controller.error(new TypeError("network error"));
        const event = kept.events[next++];
        if (event === undefined) return controller.close();
        controller.enqueue(new TextEncoder().encode(`id: ${next}\ndata: ${event}\n\n`));
      },
    });
    return new Response(body, { headers: { "Content-Type": "text/event-stream" } });
  }
}

/** A token's id, by its text: as `<17>` names it, or made of its letters. */
export function idOf(text: string): number {
  const named = /^<(\d+)>$/.exec(text)?.[1];
  return named ? Number(named) : [...text].reduce((sum, char) => sum + char.charCodeAt(0), 0);
}

function refusal(
  status: number,
  error: Record<string, unknown>,
  headers: Record<string, string> = {},
): Response {
  return Response.json({ error }, { status, headers });
}
