/** The tools that the model may call, as JSON; their calls are answered by hand. */

import { useId, useState } from "react";

import { Icon } from "../../icons";
import type { ChatSettings, Tool } from "../../model";
import { actions } from "../../state";
import { useWords } from "../../words";
import { Button, Segments } from "../parts/buttons";
import { Drawer } from "../parts/Drawer";
import type { Settled } from "./useSettled";

const FIRST: Tool[] = [
  {
    name: "list_files",
    description: "List the files of a folder",
    parameters: {
      type: "object",
      properties: { folder: { type: "string" }, min_bytes: { type: "integer" } },
      required: ["folder"],
    },
  },
];

/** Tools in the form that the API takes. */
function asText(tools: readonly Tool[]): string {
  return JSON.stringify(
    tools.map((tool) => ({ type: "function", function: tool })),
    null,
    2,
  );
}

export function ToolsDrawer({ settled, close }: { settled: Settled; close: () => void }) {
  const words = useWords();
  const ids = useId();
  const used = settled.settings?.tools ?? [];
  const [text, setText] = useState(() => asText(used.length > 0 ? used : FIRST));
  const [choice, setChoice] = useState<ChatSettings["toolChoice"]>(
    settled.settings?.toolChoice ?? "auto",
  );
  const checked = actions.checkTools(text);
  const isBad = "error" in checked;
  return (
    <Drawer
      title={words.toolsTitle}
      close={close}
      footer={
        <>
          <Button
            className="prime"
            disabled={isBad}
            onClick={() => {
              if ("tools" in checked) settled.update({ tools: checked.tools, toolChoice: choice });
              close();
            }}
          >
            {words.toolsUse}
          </Button>
          {used.length > 0 && (
            <Button
              onClick={() => {
                settled.update({ tools: [] });
                close();
              }}
            >
              {words.toolsNone}
            </Button>
          )}
        </>
      }
    >
      <p className="lead">{words.toolsNote}</p>
      <div className="xtop">
        <Segments
          label={words.toolChoice}
          options={[
            ["auto", words.toolAuto],
            ["required", words.toolRequired],
            ["none", words.toolNever],
          ]}
          value={choice}
          onChange={setChoice}
        />
      </div>
      <div className="ed">
        <label className="vh" htmlFor={`${ids}text`}>
          {words.toolsTitle}
        </label>
        <textarea
          id={`${ids}text`}
          rows={19}
          spellCheck={false}
          value={text}
          aria-invalid={isBad || undefined}
          aria-describedby={`${ids}verdict`}
          onChange={(event) => setText(event.target.value)}
        />
      </div>
      <p className={isBad ? "verdict bad" : "verdict ok"} id={`${ids}verdict`} role="status">
        <Icon name={isBad ? "warn" : "check"} />
        {isBad ? checked.error : words.toolsCount(checked.tools.length)}
      </p>
    </Drawer>
  );
}
