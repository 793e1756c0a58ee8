/** What the model thought before it answered: one line, opened on demand; it stays as it was left. */

import { useState } from "react";

import { Icon } from "../../icons";
import type { LiveTurn, Turn } from "../../model";
import { useWords } from "../../words";

export function Reasoning({
  turn,
  text,
  live,
}: {
  turn: Turn;
  text: string;
  live: LiveTurn | null;
}) {
  const words = useWords();
  const [isOpen, setOpen] = useState(false);
  if (!text) return null;
  const stats = turn.stats;
  const isThinking = live !== null && live.reasoningSince !== null;
  const isMeasured = stats?.reasoningSeconds != null && stats.reasoningTokens != null;
  return (
    <details
      className="think"
      open={isOpen}
      onToggle={(event) => setOpen(event.currentTarget.open)}
    >
      <summary>
        <Icon name="right" />
        {isThinking
          ? words.thinking(live.tokens)
          : isMeasured
            ? words.thought(stats.reasoningSeconds!.toFixed(1), stats.reasoningTokens!)
            : words.thoughts}
      </summary>
      {isOpen && <p dir="auto">{text}</p>}
    </details>
  );
}
