/** A part of the page that is loaded when it is first wanted. */

import { Cell } from "../state/cell";

/** Grows whenever a part has come: what was rendered without it is rendered again. */
export const numLoaded = new Cell(0);

export interface Lazy<Part> {
  /** The part; undefined while it is loading, which the first call begins. */
  get(): Part | undefined;
  load(): Promise<void>;
}

export function lazy<Part>(load: () => Promise<Part>): Lazy<Part> {
  let part: Part | undefined;
  let loading: Promise<void> | null = null;
  const begin = (): Promise<void> => {
    loading ??= load().then(
      (loaded) => {
        part = loaded;
        numLoaded.update((number) => number + 1);
      },
      () => {
        loading = null; // the network: tried again when next wanted
      },
    );
    return loading;
  };
  return {
    get() {
      if (part === undefined) void begin();
      return part;
    },
    load: begin,
  };
}
