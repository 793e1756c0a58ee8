/** What views may do: see contract.ts. What is done to turns is in turn_actions.ts, loaded apart. */

import {
  type Chat,
  type ChatId,
  type ChatSettings,
  NO_SETTINGS,
  newChat,
  newId,
  type Preset,
  type Sampling,
  type Settings,
  withoutSeed,
} from "../model";
import * as cells from "./cells";
import { context, getKey, keepKey } from "./context";
import type { Actions } from "./contract";
import { setDraft } from "./drafts";
import { addBlank, allChats, change, chatUpdate, getChat } from "./library";
import { retryNow } from "./server";
import { keepSettings } from "./settings";
import { checkTools } from "./tools";
import { whenLoaded } from "./turn_actions_later";

export const actions: Actions = {
  ...whenLoaded,
  // Kept as a draft until it is a turn.
  send(id, text) {
    setDraft(id, text);
    whenLoaded.send(id, text);
  },
  newChat() {
    // A new chat samples as the last one did; its system prompt, schema and tools were that one's.
    const { sampling, preset } = lastSettings();
    const chat = newChat({ ...NO_SETTINGS, sampling: withoutSeed(sampling), preset });
    addBlank(chat);
    return chat.id;
  },
  presetOfNew: () => lastSettings().preset,
  rename(id, title) {
    updateChat(id, (chat) => {
      const given = title.trim();
      return { ...chat, title: given || chat.title, isTitled: given !== "" };
    });
  },
  setPinned: (id, pinned) => updateChat(id, (chat) => ({ ...chat, pinned })),
  undoDelete: (id) => updateChat(id, (chat) => ({ ...chat, deleted: null })),
  setDraft,
  updateSettings: (id, settings) =>
    updateChat(id, (chat) => ({ ...chat, settings: { ...chat.settings, ...settings } })),
  updateSampling(id, changed) {
    updateChat(id, (chat) => {
      const sampling = defined({ ...chat.settings.sampling, ...changed });
      // The seed and the length are of an answer, not of a manner.
      const isManner = Object.keys(changed).some((name) => !["seed", "max_tokens"].includes(name));
      const preset = isManner ? null : chat.settings.preset;
      return { ...chat, settings: { ...chat.settings, sampling, preset } };
    });
  },
  applyPreset(id, preset) {
    updateChat(id, (chat) => {
      const { seed, max_tokens } = chat.settings.sampling;
      const sampling = defined({ seed, max_tokens, ...preset.sampling });
      return { ...chat, settings: { ...chat.settings, sampling, preset: preset.id } };
    });
  },
  savePreset(id, name) {
    const chat = getChat(id);
    if (!chat || !name.trim()) return;
    const sampling = withoutSeed(chat.settings.sampling);
    const preset: Preset = { id: newId(), name: name.trim(), sampling, isOwn: true };
    actions.setSettings({ presets: [...cells.settings.get().presets, preset] });
    actions.updateSettings(id, { preset: preset.id });
  },
  removePreset(id) {
    const presets = cells.settings.get().presets.filter((each) => each.id !== id || !each.isOwn);
    actions.setSettings({ presets });
  },
  checkTools,

  async search(query) {
    const { search } = await searching();
    return search(await context.opened, allChats(), query);
  },
  async exportChats(form, id) {
    const { exportChats } = await transfer();
    return exportChats(await context.opened, form, id);
  },
  async importChats(file, told, signal) {
    const { importChats } = await transfer();
    return importChats(await context.opened, file, told, signal);
  },
  async storageUse() {
    const bytes = await (await context.opened).usedBytes();
    return { chats: cells.chats.get()?.length ?? 0, bytes };
  },

  setSettings(changed: Partial<Settings>) {
    const settings = { ...cells.settings.get(), ...changed };
    cells.settings.set(settings);
    keepSettings(settings);
  },
  setKey(key) {
    keepKey(key);
    retryNow();
  },
  getKey,
  retryNow,
};

// The first paint does without these; views load them with what else is opened on demand.
export const transfer = () => import("../store/transfer");
export const searching = () => import("../store/search");

// --- chats ---------------------------------------------------------------------------------------

function lastSettings(): ChatSettings {
  const last = allChats().sort((a, b) => b.changed - a.changed)[0];
  return last?.settings ?? NO_SETTINGS;
}

function updateChat(id: ChatId, make: (chat: Chat) => Chat): void {
  void change({ chats: [chatUpdate(id, make)] });
}

function defined(sampling: { [name in keyof Sampling]?: Sampling[name] | undefined }): Sampling {
  const given = Object.entries(sampling).filter(([, value]) => value !== undefined);
  return Object.fromEntries(given) as Sampling;
}
