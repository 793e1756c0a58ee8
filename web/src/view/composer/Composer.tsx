/** The composer: where questions are typed, what is sent with them, and how full the context is. */

import { type RefObject, useEffect, useLayoutEffect, useState } from "react";

import { Icon, StopIcon } from "../../icons";
import type { Chat } from "../../model";
import { actions, useServer, useSettings } from "../../state";
import { useWords } from "../../words";
import { useLens } from "../frame/Bar";
import { fitToText, isComposing } from "../parts/typing";
import { useUi } from "../ui";
import { Banner } from "./Banner";
import { ContextGauge } from "./ContextGauge";
import { presetName } from "./presetName";
import type { Asking } from "./useAsking";

export function Composer({
  asking,
  field,
  usedTokens,
  leftOut,
  isEmpty,
}: {
  asking: Asking;
  field: RefObject<HTMLTextAreaElement | null>;
  usedTokens: number | null;
  leftOut: number;
  isEmpty: boolean;
}) {
  const words = useWords();
  const settings = useSettings();
  const server = useServer();
  const canSend = ["ready", "connecting", "loading"].includes(server.kind);
  const { writing } = asking;
  const hint = writing
    ? words.stopHint
    : isEmpty
      ? settings.enterSends
        ? words.sendHint
        : words.sendHintCtrl
      : "";
  return (
    <div className="dock">
      <div>
        <Banner leftOut={leftOut} isStart={isEmpty} />
        <div className="box">
          <Field asking={asking} field={field} canSend={canSend} />
          <div className="under">
            <Switches chat={asking.chat} />
            <ContextGauge used={usedTokens} isFull={leftOut > 0} />
            {writing ? (
              <button
                type="button"
                className="go"
                aria-label={words.stop}
                title={words.stop}
                onClick={() => actions.stop(writing)}
              >
                <StopIcon />
              </button>
            ) : (
              <button
                type="button"
                className="go"
                aria-label={words.send}
                title={words.send}
                disabled={!canSend}
                onClick={() => (asking.text.trim() ? asking.send() : field.current?.focus())}
              >
                <Icon name="up" />
              </button>
            )}
          </div>
        </div>
        <p className="hint">{hint}</p>
      </div>
    </div>
  );
}

function Field({
  asking,
  field,
  canSend,
}: {
  asking: Asking;
  field: RefObject<HTMLTextAreaElement | null>;
  canSend: boolean;
}) {
  const words = useWords();
  const settings = useSettings();
  const isTouch = useTouch();
  // biome-ignore lint/correctness/useExhaustiveDependencies: again for each text
  useLayoutEffect(() => fitToText(field.current), [field, asking.text]);
  return (
    <>
      <label className="vh" htmlFor="ask">
        {words.ask}
      </label>
      <textarea
        id="ask"
        ref={field}
        rows={1}
        dir="auto"
        placeholder={words.ask}
        value={asking.text}
        onChange={(event) => asking.setText(event.target.value)}
        onKeyDown={(event) => {
          if (isComposing(event)) return;
          if (event.key === "ArrowUp" && asking.text === "") {
            event.preventDefault();
            asking.editLast();
          }
          if (event.key !== "Enter" || isTouch) return;
          const isSend = settings.enterSends ? !event.shiftKey : event.ctrlKey || event.metaKey;
          if (!isSend) return;
          event.preventDefault();
          if (canSend && !asking.writing && asking.text.trim()) asking.send();
        }}
      />
    </>
  );
}

/** What is sent with the question; those that are set stand out. */
function Switches({ chat }: { chat: Chat | null }) {
  const words = useWords();
  const ui = useUi();
  const lens = useLens();
  const settings = useSettings();
  const schema = chat?.settings.schema ?? null;
  const tools = chat?.settings.tools.length ?? 0;
  const set = (on: boolean) => (on ? "btn opt2 set" : "btn opt2");
  return (
    <>
      <button
        type="button"
        className={set(Boolean(chat?.settings.system))}
        title={words.systemPrompt}
        onClick={() => {
          ui.setDrawer("sampling");
          requestAnimationFrame(() => document.getElementById("system-prompt")?.focus());
        }}
      >
        <Icon name="text" />
        {words.system}
      </button>
      <button
        type="button"
        className="btn set"
        title={words.sampling}
        onClick={() => lens.drawer("sampling")}
      >
        <Icon name="sliders" />
        {presetName(chat ? chat.settings.preset : actions.presetOfNew(), settings.presets, words)}
      </button>
      <button
        type="button"
        className={set(schema !== null)}
        title={words.schema}
        onClick={() => lens.drawer("schema")}
      >
        <Icon name="json" />
        {words.schema}
      </button>
      <button
        type="button"
        className={set(tools > 0)}
        title={words.tools}
        onClick={() => lens.drawer("tools")}
      >
        <Icon name="tool" />
        {words.tools}
        {tools > 0 && ` ${tools}`}
      </button>
    </>
  );
}

function useTouch(): boolean {
  const [isTouch, setTouch] = useState(() => matchMedia("(pointer: coarse)").matches);
  useEffect(() => {
    const query = matchMedia("(pointer: coarse)");
    const onChange = () => setTouch(query.matches);
    query.addEventListener("change", onChange);
    return () => query.removeEventListener("change", onChange);
  }, []);
  return isTouch;
}
