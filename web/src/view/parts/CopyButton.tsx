/** Buttons that copy, and say so for a moment. */

import { useEffect, useState } from "react";

import { Icon } from "../../icons";
import { copyText } from "../../render/copy";
import { useWords } from "../../words";
import { IconButton } from "./buttons";

const SHOWN = 1500; // milliseconds

function useCopied(): [boolean, (isCopied: boolean) => void] {
  const [isCopied, setCopied] = useState(false);
  useEffect(() => {
    if (!isCopied) return;
    const timer = setTimeout(() => setCopied(false), SHOWN);
    return () => clearTimeout(timer);
  }, [isCopied]);
  return [isCopied, setCopied];
}

export function CopyButton({ text, className = "sm" }: { text: () => string; className?: string }) {
  const words = useWords();
  const [isCopied, setCopied] = useCopied();
  return (
    <IconButton
      icon={isCopied ? "check" : "copy"}
      label={isCopied ? words.copied : words.copy}
      className={className}
      onClick={async () => setCopied(await copyText(text()))}
    />
  );
}

/** The same with its word beside the icon: in the head of a code block. */
export function CopyWords({ text }: { text: () => string }) {
  const words = useWords();
  const [isCopied, setCopied] = useCopied();
  return (
    <button
      type="button"
      className="btn sm"
      onClick={async () => setCopied(await copyText(text()))}
    >
      <Icon name={isCopied ? "check" : "copy"} />
      {isCopied ? words.copied : words.copy}
    </button>
  );
}
