/**
 * Keeps the end of a growing text in view, and lets go as soon as the reader goes up.
 *
 * It follows only from the end; any upward scroll, wheel, key or selection lets go; it resumes by
 * `toEnd` or by scrolling to the end.
 */

import { type RefObject, useCallback, useEffect, useRef, useState } from "react";

const NEAR = 60; // pixels from the end
const AT_END = 4;
const UPWARD = new Set(["ArrowUp", "PageUp", "Home"]);

export interface Follow {
  /** Whether the end is out of sight. */
  isAway: boolean;
  toEnd: () => void;
}

export function useFollow(
  scroll: RefObject<HTMLElement | null>,
  content: RefObject<HTMLElement | null>,
): Follow {
  const isFollowing = useRef(true);
  const [isAway, setAway] = useState(false);

  const distance = useCallback(() => {
    const box = scroll.current;
    return box ? box.scrollHeight - box.scrollTop - box.clientHeight : 0;
  }, [scroll]);

  // While it follows, the end is what stays in place; else what is read, as turns above it are laid
  // out or change: the browser sees to that.
  const follow = useCallback(
    (on: boolean) => {
      if (isFollowing.current === on) return;
      isFollowing.current = on;
      if (scroll.current) scroll.current.style.overflowAnchor = on ? "none" : "auto";
    },
    [scroll],
  );

  const toEnd = useCallback(() => {
    follow(true);
    if (scroll.current) scroll.current.scrollTop = scroll.current.scrollHeight;
    setAway(false);
  }, [scroll, follow]);

  useEffect(() => {
    const box = scroll.current;
    const text = content.current;
    if (!box || !text) return;
    let top = box.scrollTop;
    const letGo = () => follow(false);
    const onScroll = () => {
      if (box.scrollTop < top - 1 && distance() > AT_END) letGo();
      else if (box.scrollTop > top && distance() <= AT_END) follow(true);
      top = box.scrollTop;
      setAway(distance() > NEAR);
    };
    const onWheel = (event: WheelEvent) => event.deltaY < 0 && letGo();
    const onKey = (event: KeyboardEvent) => UPWARD.has(event.key) && letGo();
    const onSelect = () => {
      const selection = getSelection();
      if (selection && !selection.isCollapsed && text.contains(selection.anchorNode)) letGo();
    };
    const grown = new ResizeObserver(() => {
      if (isFollowing.current) box.scrollTop = box.scrollHeight;
      top = box.scrollTop;
      setAway(distance() > NEAR);
    });
    grown.observe(text);
    grown.observe(box);
    box.addEventListener("scroll", onScroll, { passive: true });
    box.addEventListener("wheel", onWheel, { passive: true });
    box.addEventListener("keydown", onKey);
    document.addEventListener("selectionchange", onSelect);
    return () => {
      grown.disconnect();
      box.removeEventListener("scroll", onScroll);
      box.removeEventListener("wheel", onWheel);
      box.removeEventListener("keydown", onKey);
      document.removeEventListener("selectionchange", onSelect);
    };
  }, [scroll, content, distance, follow]);

  return { isAway, toEnd };
}
