/** The bar above what is read: its title, the model, and the four lenses. */

import type { IconName } from "../../icons";
import { Icon } from "../../icons";
import type { Chat } from "../../model";
import { useProps } from "../../state";
import { useWords } from "../../words";
import { IconButton } from "../parts/buttons";
import { useUi } from "../ui";
import { RenameField } from "./ChatList";
import { modelName } from "./modelName";

export function Bar({ chat, live }: { chat: Chat | null; live?: boolean | undefined }) {
  const words = useWords();
  const ui = useUi();
  const props = useProps();
  const title = chat ? chat.title || words.untitled : words.newChat;
  const isRenaming = chat !== null && ui.renaming?.chat === chat.id && ui.renaming.place === "bar";
  return (
    <header className="bar">
      <IconButton
        icon="menu"
        label={words.chats}
        className="narrow"
        aria-expanded={ui.isNavOpen}
        onClick={() => ui.setNavOpen(true)}
      />
      <div className="title">
        {ui.isEngine ? (
          <>
            <h1>{words.engine}</h1>
            <span className={live ? "livetag" : "livetag paused"}>
              <i />
              {live ? words.live : words.paused}
            </span>
          </>
        ) : isRenaming ? (
          <RenameField id={chat.id} title={chat.title} />
        ) : (
          <>
            <h1
              dir="auto"
              onDoubleClick={() => chat && ui.setRenaming({ chat: chat.id, place: "bar" })}
            >
              {title}
            </h1>
            {props && <span className="model">{modelName(props.model)}</span>}
          </>
        )}
      </div>
      <div className="tools" role="toolbar" aria-label={words.more}>
        <Lenses />
        <IconButton
          icon="dots"
          label={words.more}
          aria-haspopup="menu"
          aria-expanded={ui.menu?.kind === "chat"}
          onClick={(event) =>
            ui.setMenu({
              kind: "chat",
              id: chat?.id ?? "",
              anchor: event.currentTarget.getBoundingClientRect(),
            })
          }
        />
      </div>
    </header>
  );
}

/** Toggles on what is read; a press on one leaves the engine's view unless it is the engine's. */
function Lenses() {
  const words = useWords();
  const ui = useUi();
  const lens = useLens();
  return (
    <>
      <Lens
        icon="bars"
        words={words.probabilities}
        on={ui.isShaded && !ui.isEngine}
        act={lens.shade}
      />
      <Lens
        icon="prompt"
        words={words.prompt}
        on={ui.drawer === "prompt" && !ui.isEngine}
        act={() => lens.drawer("prompt")}
        beyond
      />
      <Lens icon="engine" words={words.engine} on={ui.isEngine} act={lens.engine} beyond />
      <Lens
        icon="sliders"
        words={words.sampling}
        on={ui.drawer === "sampling" && !ui.isEngine}
        act={() => lens.drawer("sampling")}
        beyond
      />
    </>
  );
}

function Lens({
  icon,
  words,
  on,
  act,
  beyond = false,
}: {
  icon: IconName;
  words: string;
  on: boolean;
  act: () => void;
  beyond?: boolean;
}) {
  return (
    <button
      type="button"
      className={beyond ? "btn lens hidephone" : "btn lens"}
      aria-pressed={on}
      aria-label={words}
      title={words}
      onClick={act}
    >
      <Icon name={icon} />
      <span>{words}</span>
    </button>
  );
}

/** What the lenses do, from the bar, the keys, the menu and the palette alike. */
export function useLens() {
  const ui = useUi();
  return {
    shade: () => {
      if (ui.isEngine) {
        ui.setEngine(false);
        ui.setShaded(true);
      } else ui.setShaded(!ui.isShaded);
    },
    drawer: (name: "prompt" | "sampling" | "schema" | "tools") => {
      if (ui.isEngine) {
        ui.setEngine(false);
        ui.setDrawer(name);
      } else ui.setDrawer(ui.drawer === name ? null : name);
    },
    engine: () => ui.setEngine(!ui.isEngine),
  };
}
