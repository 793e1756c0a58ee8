/** The dialog that is open: palette, settings, or the list of keys. */

import type { ChatView } from "../../state";
import { useUi } from "../ui";
import { Keys } from "./Keys";
import { Palette } from "./Palette";
import { SettingsSheet } from "./SettingsSheet";
import "../../styles/popover.css";
import "../../styles/fields.css";
import "../../styles/dialogs.css";

export default function Overlays({ view }: { view: ChatView | null }) {
  const ui = useUi();
  const close = () => ui.setOverlay(null);
  switch (ui.overlay) {
    case "palette":
      return <Palette view={view} close={close} />;
    case "settings":
      return <SettingsSheet close={close} />;
    case "keys":
      return <Keys close={close} />;
    case null:
      return null;
  }
}
