/** One line above the composer at most, the most urgent: what is wrong, and the way on. */

import { useEffect, useState } from "react";

import { Icon, type IconName } from "../../icons";
import { actions, useServer, useStorage } from "../../state";
import { useWords } from "../../words";
import { saveFile } from "../parts/files";
import { useUi } from "../ui";

interface Line {
  icon: IconName;
  text: string;
  button?: { text: string; act: () => void };
}

export function Banner({ leftOut, isStart }: { leftOut: number; isStart: boolean }) {
  const server = useServer();
  const line = useLine(leftOut);
  // The start page itself says how far a model is loaded.
  if (!line || (isStart && server.kind === "loading")) return null;
  return (
    <div className="banner" role="status">
      <Icon name={line.icon} />
      <span>{line.text}</span>
      {line.button && (
        <button type="button" className="btn sm" onClick={line.button.act}>
          {line.button.text}
        </button>
      )}
    </div>
  );
}

function useLine(leftOut: number): Line | null {
  const words = useWords();
  const ui = useUi();
  const server = useServer();
  const storage = useStorage();
  const retryAt = server.kind === "gone" || server.kind === "full" ? server.retryAt : null;
  const left = useSecondsUntil(retryAt);
  const tryNow = { text: words.tryNow, act: actions.retryNow };
  const enterKey = { text: words.enterKey, act: () => ui.setOverlay("settings") };
  switch (server.kind) {
    case "gone":
      return {
        icon: "offline",
        text: left > 0 ? words.offline(left) : words.offlineNow,
        button: tryNow,
      };
    case "full":
      return {
        icon: "clock",
        text: words.busy(server.waiting ?? undefined, Math.max(1, left)),
        button: tryNow,
      };
    case "key":
      return {
        icon: "warn",
        text: server.isWrong ? words.keyRefused : words.keyNeeded,
        button: enterKey,
      };
    case "failed":
      return { icon: "warn", text: words.engineStopped(server.message), button: tryNow };
    case "loading":
      return { icon: "clock", text: words.loadingBanner };
  }
  if (leftOut > 0) {
    const show = () =>
      document.getElementById("prompt-begins")?.scrollIntoView({ block: "center" });
    return {
      icon: "warn",
      text: words.full(leftOut),
      button: { text: words.showWhich, act: show },
    };
  }
  if (storage.kind !== "ok") {
    const save = async () => saveFile(await actions.exportChats("json"), "cullama-chats.json");
    return {
      icon: "warn",
      text: storage.kind === "full" ? words.storageFull : words.storageForbidden,
      button: { text: words.export, act: save },
    };
  }
  return null;
}

/** Whole seconds until a time, counted down. */
function useSecondsUntil(time: number | null): number {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    if (time === null) return;
    setNow(Date.now());
    const timer = setInterval(() => setNow(Date.now()), 500);
    return () => clearInterval(timer);
  }, [time]);
  return time === null ? 0 : Math.max(0, Math.ceil((time - now) / 1000));
}
