/** The chats, the way to a new one, and what the model runs on. */

import { Icon, Mark } from "../../icons";
import type { ServerProps } from "../../model";
import { actions, useServer, useSettings } from "../../state";
import { useWords } from "../../words";
import { IconButton } from "../parts/buttons";
import { useUi } from "../ui";
import { ChatList } from "./ChatList";
import { StepSpark } from "./StepSpark";
import { isDark } from "./theme";

/** "Ctrl", or the sign that it has on a Mac. */
const modifier = /Mac|iPhone|iPad/.test(navigator.platform) ? "⌘" : "Ctrl";

export function Sidebar() {
  const words = useWords();
  const ui = useUi();
  return (
    <nav className="side" id="chats" aria-label={words.chats}>
      <div className="brand">
        <Mark />
        <span>
          cu<b>ll</b>ama
        </span>
      </div>
      <button type="button" className="row" onClick={() => ui.openChat(null)}>
        <Icon name="plus" />
        {words.newChat}
        <kbd>{modifier} Shift O</kbd>
      </button>
      <button
        type="button"
        className="row"
        onClick={() => {
          ui.setNavOpen(false);
          ui.setOverlay("palette");
        }}
      >
        <Icon name="search" />
        {words.search}
        <kbd>{modifier} K</kbd>
      </button>
      <ChatList />
      <Host />
      <div className="sidefoot">
        <button
          type="button"
          className="btn"
          onClick={() => {
            ui.setNavOpen(false);
            ui.setOverlay("settings");
          }}
        >
          <Icon name="gear" />
          {words.settings}
        </button>
        <ThemeButton />
      </div>
    </nav>
  );
}

/** Model, device and the last steps' times: a door to the view of the engine. */
function Host() {
  const words = useWords();
  const ui = useUi();
  const server = useServer();
  return (
    <button type="button" className="host" onClick={() => ui.setEngine(true)}>
      <span className="vh">{words.engine}:</span>
      <strong>{server.kind === "ready" ? server.props.model : "–"}</strong>
      <span className="device">{server.kind === "ready" ? deviceOf(server.props) : "–"}</span>
      <StepSpark />
    </button>
  );
}

/** What the model runs on; the server names the model first, which is said above already. */
function deviceOf({ model, description }: ServerProps): string {
  return description.startsWith(`${model} · `) ? description.slice(model.length + 3) : description;
}

function ThemeButton() {
  const words = useWords();
  const settings = useSettings();
  const dark = isDark(settings.theme);
  return (
    <IconButton
      icon={dark ? "sun" : "moon"}
      label={words.theme}
      onClick={() => actions.setSettings({ theme: dark ? "light" : "dark" })}
    />
  );
}
