/** The answer that is read: the last one whose top stands above three quarters of the thread, or of all at its end. */

import { useEffect, useState } from "react";

import type { Turn, TurnId } from "../../model";
import type { ChatView } from "../../state";

export function useAnswerInView(view: ChatView | null): Turn | null {
  const [id, setId] = useState<TurnId | null>(null);
  const length = view?.path.length ?? 0;
  // biome-ignore lint/correctness/useExhaustiveDependencies: again when turns come or another chat is read
  useEffect(() => {
    const box = document.querySelector<HTMLElement>(".scroll");
    if (!box) return;
    const look = () => {
      const isAtEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 4;
      const line = box.getBoundingClientRect().top + box.clientHeight * (isAtEnd ? 1 : 0.75);
      const all = [...box.querySelectorAll<HTMLElement>(".answer[data-turn]")];
      const found = all.findLast((each) => each.getBoundingClientRect().top <= line) ?? all[0];
      setId(found?.dataset.turn ?? null);
    };
    look();
    box.addEventListener("scroll", look, { passive: true });
    return () => box.removeEventListener("scroll", look);
  }, [view?.chat.id, length]);
  const answers = view?.path.filter(({ turn }) => turn.role === "assistant") ?? [];
  return (answers.find(({ turn }) => turn.id === id) ?? answers.at(-1))?.turn ?? null;
}
