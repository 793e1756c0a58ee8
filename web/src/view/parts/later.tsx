/** Parts that the first paint does without: loaded when first shown, or when the browser is idle. */

import { type ComponentType, useEffect, useState } from "react";

import { searching, transfer } from "../../state/actions";

const waiting: (() => Promise<unknown>)[] = [];

/**
 * Return a part that is loaded when it is first shown, and until then is its `before`.
 *
 * It is also loaded once the page stands, so that it is there when the server is not; what could
 * not be loaded is tried again when it is shown again. `lazy` would wait a third of a second.
 */
export function later<Props extends object>(
  load: () => Promise<{ default: ComponentType<Props> }>,
  Before?: ComponentType<Props>,
): ComponentType<Props> {
  let Part: ComponentType<Props> | null = null;
  const begin = async () => {
    Part = (await load()).default;
  };
  waiting.push(begin);
  return function Later(props: Props) {
    const [, setLoaded] = useState(Part !== null);
    useEffect(() => {
      if (Part) return;
      begin().then(
        () => setLoaded(true),
        () => {}, // the server is gone
      );
    }, []);
    if (Part) return <Part {...props} />;
    return Before ? <Before {...props} /> : null;
  };
}

/** Load all parts, one after the other; those of a part that has just come, too. */
export async function loadAll(): Promise<void> {
  waiting.push(transfer, searching);
  for (let load = waiting.shift(); load; load = waiting.shift()) {
    try {
      await load();
    } catch {
      return; // the server is gone
    }
  }
}
