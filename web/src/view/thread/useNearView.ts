/** Tells when an element comes near what is read: from then on it is. */

import { type RefObject, useEffect, useState } from "react";

/** Above and below what is seen. */
const MARGIN = "1600px 0px";

const waiting = new Map<Element, () => void>();
let observer: IntersectionObserver | null = null;

function watch(element: Element, near: () => void): () => void {
  observer ??= new IntersectionObserver(
    (entries) => {
      for (const entry of entries) if (entry.isIntersecting) waiting.get(entry.target)?.();
    },
    { root: null, rootMargin: MARGIN, scrollMargin: MARGIN } as IntersectionObserverInit,
  );
  waiting.set(element, near);
  observer.observe(element);
  return () => {
    waiting.delete(element);
    observer?.unobserve(element);
  };
}

/** @param isAlways near at once, such as an answer that is being written. */
export function useNearView(box: RefObject<Element | null>, isAlways: boolean): boolean {
  const [isNear, setNear] = useState(isAlways || typeof IntersectionObserver === "undefined");
  useEffect(() => {
    const element = box.current;
    if (isNear || !element) return undefined;
    return watch(element, () => setNear(true));
  }, [box, isNear]);
  return isNear || isAlways;
}
