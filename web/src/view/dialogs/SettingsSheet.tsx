/** Settings: one short sheet, of this browser. */

import { useEffect, useId, useRef, useState } from "react";

import { Icon } from "../../icons";
import type { ImportReport } from "../../model";
import { actions, useSettings } from "../../state";
import { useWords } from "../../words";
import { Button, IconButton, Segments } from "../parts/buttons";
import { Dialog } from "../parts/Dialog";
import { Field, SwitchField } from "../parts/fields";
import { saveFile } from "../parts/files";

export function SettingsSheet({ close }: { close: () => void }) {
  const words = useWords();
  const settings = useSettings();
  return (
    <Dialog label={words.settings} className="sheet" close={close}>
      <header>
        <h2>{words.settings}</h2>
        <IconButton icon="x" label={words.close} onClick={close} />
      </header>
      <Field label={words.theme}>
        <Segments
          label={words.theme}
          options={[
            ["system", words.followSystem],
            ["light", words.light],
            ["dark", words.dark],
          ]}
          value={settings.theme}
          onChange={(theme) => actions.setSettings({ theme })}
        />
      </Field>
      <Field label={words.language}>
        <Segments
          label={words.language}
          options={[
            ["en", "English"],
            ["zh", "中文"],
          ]}
          value={settings.language}
          onChange={(language) => actions.setSettings({ language })}
        />
      </Field>
      <SwitchField
        label={words.enterSends}
        note={words.enterSendsNote}
        checked={settings.enterSends}
        onChange={(enterSends) => actions.setSettings({ enterSends })}
      />
      <SwitchField
        label={words.notesBeside}
        note={words.notesBesideNote}
        checked={settings.notes}
        onChange={(notes) => actions.setSettings({ notes })}
      />
      <SwitchField
        label={words.singleKeys}
        note={words.singleKeysNote}
        checked={settings.singleKeys}
        onChange={(singleKeys) => actions.setSettings({ singleKeys })}
      />
      <KeyField />
      <YourChats />
    </Dialog>
  );
}

function KeyField() {
  const words = useWords();
  const id = useId();
  const [key, setKey] = useState(() => actions.getKey());
  return (
    <div className="field">
      <label htmlFor={id}>{words.apiKey}</label>
      <input
        id={id}
        type="password"
        autoComplete="off"
        placeholder="–"
        value={key}
        onChange={(event) => setKey(event.target.value)}
        onBlur={() => actions.setKey(key.trim())}
        onKeyDown={(event) => event.key === "Enter" && actions.setKey(key.trim())}
      />
      <p>{words.apiKeyNote}</p>
    </div>
  );
}

type Import =
  | { kind: "reading"; share: number; chats: number; cancel: () => void }
  | { kind: "done"; report: ImportReport }
  | { kind: "failed"; message: string };

function YourChats() {
  const words = useWords();
  const input = useRef<HTMLInputElement>(null);
  const [use, setUse] = useState<{ chats: number; bytes: number | null }>();
  const [state, setState] = useState<Import>();
  // biome-ignore lint/correctness/useExhaustiveDependencies: again when chats were read
  useEffect(() => {
    void actions.storageUse().then(setUse);
  }, [state?.kind]);
  const read = async (file: File) => {
    const control = new AbortController();
    const cancel = () => control.abort();
    setState({ kind: "reading", share: 0, chats: 0, cancel });
    try {
      const report = await actions.importChats(
        file,
        ({ chats }, share) => setState({ kind: "reading", share, chats, cancel }),
        control.signal,
      );
      setState({ kind: "done", report });
    } catch (error) {
      setState({ kind: "failed", message: (error as Error).message });
    }
  };
  const megabytes = use?.bytes == null ? undefined : (use.bytes / 1e6).toFixed(1);
  return (
    <>
      <div className="field">
        <span className="name">{words.yourChats}</span>
        <span />
        <p>
          {use && `${words.chatsKept(use.chats, megabytes)} `}
          {words.importNote}
        </p>
        <div className="acts">
          <Button
            className="line"
            onClick={async () => saveFile(await actions.exportChats("json"), "cullama-chats.json")}
          >
            {words.export} JSON
          </Button>
          <Button
            className="line"
            onClick={async () =>
              saveFile(await actions.exportChats("jsonl"), "cullama-chats.jsonl")
            }
          >
            {words.export} JSONL
          </Button>
          <Button className="line" onClick={() => input.current?.click()}>
            {words.import}
          </Button>
          <input
            ref={input}
            type="file"
            hidden
            aria-label={words.import}
            accept=".json,.jsonl,application/json"
            onChange={(event) => {
              const file = event.target.files?.[0];
              event.target.value = "";
              if (file) void read(file);
            }}
          />
        </div>
      </div>
      <div role="status">{state && <ImportLine state={state} />}</div>
    </>
  );
}

function ImportLine({ state }: { state: Import }) {
  const words = useWords();
  if (state.kind === "reading") {
    return (
      <p className="verdict">
        {words.importing(Math.floor(state.share * 100), state.chats)}
        <Button className="sm line" onClick={state.cancel}>
          {words.cancel}
        </Button>
      </p>
    );
  }
  if (state.kind === "failed") {
    return (
      <p className="verdict bad">
        <Icon name="warn" />
        {state.message}
      </p>
    );
  }
  const { report } = state;
  return (
    <>
      <p className={report.chats > 0 ? "verdict ok" : "verdict bad"}>
        <Icon name={report.chats > 0 ? "check" : "warn"} />
        {words.imported(report.chats, report.damaged)}
      </p>
      {report.stopped && <p className="verdict bad">{words.importStopped[report.stopped]}</p>}
      {report.notes.length > 0 && (
        <ul className="damages">
          {report.notes.map((note) => (
            <li key={note}>{note}</li>
          ))}
        </ul>
      )}
    </>
  );
}
