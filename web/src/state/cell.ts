/** A value that can be watched: the smallest store there is. */

import { useSyncExternalStore } from "react";

export class Cell<Value> {
  #value: Value;
  #watchers = new Set<() => void>();

  constructor(value: Value) {
    this.#value = value;
  }

  get = (): Value => this.#value;

  set(value: Value): void {
    if (Object.is(value, this.#value)) return;
    this.#value = value;
    for (const watcher of [...this.#watchers]) watcher();
  }

  update(change: (value: Value) => Value): void {
    this.set(change(this.#value));
  }

  watch = (watcher: () => void): (() => void) => {
    this.#watchers.add(watcher);
    return () => this.#watchers.delete(watcher);
  };

  get isWatched(): boolean {
    return this.#watchers.size > 0;
  }
}

/** Cells by id, made when first asked for. */
export class Cells<Value> {
  #cells = new Map<string, Cell<Value>>();
  #first: Value;

  constructor(first: Value) {
    this.#first = first;
  }

  of(id: string): Cell<Value> {
    let cell = this.#cells.get(id);
    if (!cell) {
      cell = new Cell(this.#first);
      this.#cells.set(id, cell);
    }
    return cell;
  }

  drop(id: string): void {
    if (!this.#cells.get(id)?.isWatched) this.#cells.delete(id);
  }
}

export function useCell<Value>(cell: Cell<Value>): Value {
  return useSyncExternalStore(cell.watch, cell.get);
}
