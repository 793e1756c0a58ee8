/** The chats, the way to a new one, and what the model runs on. */

import { Icon, Mark } from "../../icons";
import { actions, useProps, useSettings } from "../../state";
import { useWords } from "../../words";
import { IconButton } from "../parts/buttons";
import { UNKNOWN } from "../thread/numbers";
import { useUi } from "../ui";
import { ChatList } from "./ChatList";
import { deviceName, modelName } from "./modelName";
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
  const props = useProps();
  return (
    <button type="button" className="host" onClick={() => ui.setEngine(true)}>
      <span className="vh">{words.engine}:</span>
      <strong>{props ? modelName(props.model) : UNKNOWN}</strong>
      <span className="device" title={props?.description}>
        {props ? deviceName(props.description) : UNKNOWN}
      </span>
      <StepSpark />
    </button>
  );
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
