/**
 * Tells when an element should be rendered: when it comes near what is read, or else when the browser
 * has nothing to do. From then on it is: what is found by the browser's search, or selected, stays.
 */

import { type RefObject, useEffect, useState } from "react";

/** Above and below what is seen. */
const MARGIN = "1600px 0px";
/** The page stands, and is used, before anything is rendered ahead. */
const IDLE_AFTER_MS = 1500;

const waiting = new Map<Element, () => void>();
let observer: IntersectionObserver | null = null;
let isAhead = false;

function watch(element: Element, near: () => void): () => void {
  observer ??= new IntersectionObserver(
    (entries) => {
      for (const entry of entries) if (entry.isIntersecting) waiting.get(entry.target)?.();
    },
    { root: null, rootMargin: MARGIN, scrollMargin: MARGIN } as IntersectionObserverInit,
  );
  waiting.set(element, near);
  observer.observe(element);
  if (!isAhead) {
    isAhead = true;
    setTimeout(renderAhead, IDLE_AFTER_MS);
  }
  return () => {
    waiting.delete(element);
    observer?.unobserve(element);
  };
}

/** Render those that wait, one for each time that the browser is idle, the last ones first. */
function renderAhead(): void {
  const [element, near] = [...waiting].at(-1) ?? [];
  if (!element || !near) {
    isAhead = false;
    return;
  }
  whenIdle(() => {
    waiting.delete(element); // asked once
    near();
    renderAhead();
  });
}

function whenIdle(work: () => void): void {
  // Safari has it only behind a switch.
  if (typeof requestIdleCallback === "function") requestIdleCallback(work);
  else setTimeout(work, 50);
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
