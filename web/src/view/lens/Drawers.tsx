/** The drawer that is open; loaded when the first one is. */

import type { ChatView } from "../../state";
import { useUi } from "../ui";
import { PromptDrawer } from "./PromptDrawer";
import { SamplingDrawer } from "./SamplingDrawer";
import { SchemaDrawer } from "./SchemaDrawer";
import { ToolsDrawer } from "./ToolsDrawer";
import { useSettled } from "./useSettled";
import "../../styles/drawer.css";
import "../../styles/keys.css";
import "../../styles/fields.css";
import "../../styles/sampling.css";

export default function Drawers({ view }: { view: ChatView | null }) {
  const ui = useUi();
  const settled = useSettled(view);
  const close = () => ui.setDrawer(null);
  switch (ui.drawer) {
    case "prompt":
      return <PromptDrawer view={view} close={close} />;
    case "sampling":
      return <SamplingDrawer view={view} settled={settled} close={close} />;
    case "schema":
      return <SchemaDrawer settled={settled} close={close} />;
    case "tools":
      return <ToolsDrawer settled={settled} close={close} />;
    case null:
      return null;
  }
}
