/** The frame: chats, what is read, the drawer beside it, and what floats above. */

import { useEffect } from "react";

import { useChat } from "../../state";
import { useWords } from "../../words";
import { Boundary } from "../parts/Boundary";
import { later, loadAll } from "../parts/later";
import { useUi } from "../ui";
import { ChatPane } from "./ChatPane";
import { Sidebar } from "./Sidebar";
import { Toast } from "./Toast";

const EngineView = later(() => import("../engine/EngineView"));
const Drawers = later(() => import("../lens/Drawers"));
const Overlays = later(() => import("../dialogs/Overlays"));
const Menus = later(() => import("../dialogs/Menus"));

export function Frame() {
  const words = useWords();
  const ui = useUi();
  const view = useChat(ui.chat);
  useEffect(() => {
    const timer = setTimeout(loadAll, 200);
    return () => clearTimeout(timer);
  }, []);
  return (
    <div className={ui.isNavOpen ? "app nav" : "app"} id="app">
      <div className="frame">
        <Sidebar />
        <main className="main" id="main">
          <Boundary of={ui.isEngine ? "engine" : `chat ${ui.chat}`}>
            {ui.isEngine ? <EngineView chat={view ?? null} /> : <ChatPane view={view} />}
          </Boundary>
        </main>
        {ui.drawer && !ui.isEngine && (
          <Boundary of={ui.drawer}>
            <Drawers view={view ?? null} />
          </Boundary>
        )}
      </div>
      <button
        type="button"
        className="cover"
        aria-label={words.close}
        tabIndex={ui.isNavOpen ? 0 : -1}
        onClick={() => ui.setNavOpen(false)}
      />
      <Boundary of={`${ui.overlay} ${ui.menu !== null}`}>
        {ui.overlay && <Overlays view={view ?? null} />}
        {ui.menu && <Menus view={view ?? null} />}
      </Boundary>
      <Toast />
    </div>
  );
}
