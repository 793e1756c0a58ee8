/** What menus and palette do with a chat: what can be undone is done at once. */

import { actions } from "../../state";
import { useWords } from "../../words";
import { fileName, saveFile } from "../parts/files";
import { useUi } from "../ui";

export function useChatActions() {
  const ui = useUi();
  const words = useWords();
  return {
    rename: (chat: string, place: "list" | "bar" = "bar") => ui.setRenaming({ chat, place }),
    fork: async (turn: string) => {
      const made = await actions.branchIntoChat(turn);
      if (made) ui.openChat(made);
    },
    save: async (chat: string, title: string) =>
      saveFile(await actions.exportChats("json", chat), fileName(title)),
    remove: (chat: string) => {
      const wasOpen = ui.chat === chat;
      actions.deleteChat(chat);
      if (wasOpen) ui.openChat(null);
      ui.showToast({
        text: words.chatDeleted,
        undo: () => {
          actions.undoDelete(chat);
          if (wasOpen) ui.openChat(chat);
        },
      });
    },
    removeTurn: (turn: string) => {
      actions.deleteTurn(turn);
      ui.showToast({ text: words.turnDeleted, undo: () => actions.undoDeleteTurn(turn) });
    },
  };
}
