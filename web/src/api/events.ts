/** Reads server-sent events, and notices a connection that is dead. */

import { createParser } from "eventsource-parser";

/** The server sends a comment at least every 10 s: after this long nobody is there any more. */
export const SILENT_MS = 25_000;

/** The connection ended, or nothing came for too long, before the stream said that it is done. */
export class ConnectionLost extends Error {
  /** Whether the other side ended it in order: then nothing more will come of this stream. */
  readonly isClean: boolean;

  constructor(message: string, isClean = false) {
    super(message);
    this.isClean = isClean;
  }
}

export interface Event {
  data: string;
  /** The event's number in a stored stream, from 1; null where it has none. */
  number: number | null;
}

/**
 * Yield the events of a response up to [DONE], which is not among them.
 *
 * Raises ConnectionLost where it ends before. Whoever stops reading closes the connection.
 */
export async function* readEvents(
  response: Response,
  silentMs = SILENT_MS,
): AsyncGenerator<Event[], void> {
  if (!response.body) throw new ConnectionLost("the response has no body");
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let events: Event[] = [];
  const parser = createParser({
    onEvent: ({ data, id }) => events.push({ data, number: numberOf(id) }),
  });
  try {
    for (;;) {
      const { done, value } = await withinTime(reader.read(), silentMs);
      if (done) throw new ConnectionLost("the connection ended", true);
      parser.feed(decoder.decode(value, { stream: true }));
      const end = events.findIndex((event) => event.data === "[DONE]");
      const read = end < 0 ? events : events.slice(0, end);
      events = [];
      if (read.length) yield read;
      if (end >= 0) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function numberOf(id: string | undefined): number | null {
  const number = Number.parseInt(id ?? "", 10);
  return Number.isNaN(number) ? null : number;
}

async function withinTime<Value>(work: Promise<Value>, ms: number): Promise<Value> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new ConnectionLost(`nothing came for ${ms / 1000} s`)), ms);
  });
  try {
    return await Promise.race([work, late]);
  } catch (error) {
    if (error instanceof TypeError) throw new ConnectionLost(error.message); // the network's
    throw error;
  } finally {
    clearTimeout(timer);
  }
}
