/** All that can be done by name, with the keys that do the same. */

import type { IconName } from "../../icons";
import { actions, type ChatView } from "../../state";
import { useWords } from "../../words";
import { useLens } from "../frame/Bar";
import { useUi } from "../ui";
import { useChatActions } from "./chatActions";

export interface Command {
  icon: IconName;
  title: string;
  keys: string[];
  act: () => void;
}

const modifier = /Mac|iPhone|iPad/.test(navigator.platform) ? "⌘" : "Ctrl";

export function useCommands(view: ChatView | null): Command[] {
  const words = useWords();
  const ui = useUi();
  const lens = useLens();
  const chat = useChatActions();
  const last = view?.path.findLast((place) => place.turn.role === "assistant")?.turn;
  const commands: Command[] = [
    {
      icon: "plus",
      title: words.newChat,
      keys: [modifier, "Shift", "O"],
      act: () => ui.openChat(null),
    },
    { icon: "bars", title: words.probabilities, keys: ["P"], act: lens.shade },
    { icon: "prompt", title: words.promptTitle, keys: ["X"], act: () => lens.drawer("prompt") },
    { icon: "engine", title: words.engine, keys: ["E"], act: lens.engine },
    { icon: "sliders", title: words.sampling, keys: ["S"], act: () => lens.drawer("sampling") },
    { icon: "json", title: words.schema, keys: [], act: () => lens.drawer("schema") },
    { icon: "tool", title: words.tools, keys: [], act: () => lens.drawer("tools") },
  ];
  if (last) {
    commands.push(
      {
        icon: "redo",
        title: words.regenerate,
        keys: ["R"],
        act: () => actions.regenerate(last.id),
      },
      { icon: "fork", title: words.fork, keys: [], act: () => chat.fork(last.id) },
    );
  }
  if (view) {
    const { id, title } = view.chat;
    commands.push(
      { icon: "edit", title: words.rename, keys: ["F2"], act: () => chat.rename(id) },
      { icon: "file", title: words.export, keys: [], act: () => chat.save(id, title) },
      { icon: "x", title: words.delete, keys: [], act: () => chat.remove(id) },
    );
  }
  commands.push(
    { icon: "gear", title: words.settings, keys: [], act: () => ui.setOverlay("settings") },
    { icon: "text", title: words.shortcuts, keys: ["?"], act: () => ui.setOverlay("keys") },
  );
  return commands;
}
