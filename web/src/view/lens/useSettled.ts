/** The settings of the chat that is read; a new chat is made by the first change of one. */

import type { ChatSettings, Preset, Sampling } from "../../model";
import { actions, type ChatView } from "../../state";
import { useUi } from "../ui";

export interface Settled {
  settings: ChatSettings | null;
  update: (change: Partial<ChatSettings>) => void;
  sample: (change: { [name in keyof Sampling]?: Sampling[name] | undefined }) => void;
  apply: (preset: Preset) => void;
  save: (name: string) => void;
}

export function useSettled(view: ChatView | null): Settled {
  const ui = useUi();
  const withChat = (act: (chat: string) => void) => {
    const id = view?.chat.id ?? actions.newChat();
    act(id);
    if (!view) ui.openChat(id);
  };
  return {
    settings: view?.chat.settings ?? null,
    update: (change) => withChat((chat) => actions.updateSettings(chat, change)),
    sample: (change) => withChat((chat) => actions.updateSampling(chat, change)),
    apply: (preset) => withChat((chat) => actions.applyPreset(chat, preset)),
    save: (name) => withChat((chat) => actions.savePreset(chat, name)),
  };
}
