/** Tells screen readers that an answer is being written, then the whole of it, once. */

import { useEffect, useRef, useState } from "react";

import type { Place } from "../../model";
import { useWords } from "../../words";

export function Status({ path }: { path: readonly Place[] }) {
  const words = useWords();
  const turn = path.at(-1)?.turn;
  const writing = useRef<string | null>(null);
  const [said, say] = useState("");
  useEffect(() => {
    if (turn?.role !== "assistant") return;
    if (turn.status === "writing") {
      writing.current = turn.id;
      say(words.writing);
    } else if (writing.current === turn.id) {
      writing.current = null;
      say(turn.text);
    }
  }, [turn, words]);
  return (
    <div className="vh" role="status" aria-live="polite">
      {said}
    </div>
  );
}
