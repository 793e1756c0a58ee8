/** Sampling: presets, what the settings leave of the last choice, and each parameter's meaning. */

import { useEffect, useId, useState } from "react";

import { BALANCED, type Choice, type Sampling } from "../../model";
import { actions, type ChatView, useServer, useSettings } from "../../state";
import { useWords, type Words } from "../../words";
import { presetName } from "../composer/presetName";
import { Button, IconButton } from "../parts/buttons";
import { Drawer } from "../parts/Drawer";
import { NumberField, SliderField } from "../parts/fields";
import { percent, UNKNOWN } from "../thread/numbers";
import { distribution } from "./distribution";
import type { Settled } from "./useSettled";
import { Visible } from "./Visible";

export function SamplingDrawer({
  view,
  settled,
  close,
}: {
  view: ChatView | null;
  settled: Settled;
  close: () => void;
}) {
  const words = useWords();
  const server = useServer();
  const { presets } = useSettings();
  const defaults = server.kind === "ready" ? server.props.defaults : {};
  const preset = presets.find((each) => each.id === settled.settings?.preset);
  // What a value goes back to: the preset's, or of changed settings those that chats begin with.
  const initial: Sampling = { ...defaults, ...(preset?.sampling ?? BALANCED) };
  const sampling = settled.settings?.sampling ?? BALANCED;
  const effective = { ...defaults, ...sampling };
  return (
    <Drawer title={words.sampling} close={close} footer={<Foot settled={settled} />}>
      <Presets settled={settled} />
      <Distribution view={view} sampling={effective} />
      {sliders(words).map((slider) => (
        <SliderField
          key={slider.name}
          {...slider}
          value={effective[slider.name] ?? slider.neutral}
          initial={initial[slider.name] ?? slider.neutral}
          onChange={(value) =>
            settled.sample({
              [slider.name]:
                value === (defaults[slider.name] ?? slider.neutral) ? undefined : value,
            })
          }
        />
      ))}
      <NumberField
        label={words.seed}
        note={words.seedNote}
        value={sampling.seed}
        onChange={(seed) => settled.sample({ seed })}
      />
      <NumberField
        label={words.maxTokens}
        note={words.maxTokensNote}
        placeholder="∞"
        value={sampling.max_tokens}
        onChange={(max_tokens) => settled.sample({ max_tokens: max_tokens || undefined })}
      />
      <SystemField settled={settled} />
    </Drawer>
  );
}

type SliderName =
  | "temperature"
  | "top_p"
  | "top_k"
  | "min_p"
  | "repetition_penalty"
  | "speculation";

interface Slider {
  name: SliderName;
  label: string;
  note: string;
  min: number;
  max: number;
  step: number;
  digits: number;
  /** What it is where the server names no default. */
  neutral: number;
}

function sliders(words: Words): Slider[] {
  const make = (
    name: SliderName,
    label: string,
    note: string,
    [min, max, step]: readonly [number, number, number],
    digits: number,
    neutral: number,
  ): Slider => ({ name, label, note, min, max, step, digits, neutral });
  return [
    make("temperature", words.temperature, words.temperatureNote, [0, 2, 0.05], 2, 1),
    make("top_p", words.topP, words.topPNote, [0.05, 1, 0.05], 2, 1),
    make("min_p", words.minP, words.minPNote, [0, 0.5, 0.01], 2, 0),
    make("top_k", words.topK, words.topKNote, [0, 200, 1], 0, 0),
    make("repetition_penalty", words.repetition, words.repetitionNote, [1, 2, 0.05], 2, 1),
    make("speculation", words.speculation, words.speculationNote, [0, 16, 1], 0, 0),
  ];
}

function Presets({ settled }: { settled: Settled }) {
  const words = useWords();
  const { presets } = useSettings();
  const chosen = settled.settings ? settled.settings.preset : "balanced";
  const own = presets.find((preset) => preset.id === chosen && preset.isOwn);
  return (
    <div className="presetrow">
      <div className="seg presets" role="group" aria-label={words.sampling}>
        {presets.map((preset) => (
          <button
            key={preset.id}
            type="button"
            aria-pressed={preset.id === chosen}
            onClick={() => settled.apply(preset)}
          >
            {presetName(preset.id, presets, words)}
          </button>
        ))}
        {chosen === null && (
          <button type="button" aria-pressed="true">
            {words.mine}
          </button>
        )}
      </div>
      {own && (
        <IconButton
          icon="x"
          label={`${words.deletePreset}: ${own.name}`}
          className="sm"
          onClick={() => actions.removePreset(own.id)}
        />
      )}
    </div>
  );
}

function Foot({ settled }: { settled: Settled }) {
  const words = useWords();
  const { presets } = useSettings();
  const [name, setName] = useState<string | null>(null);
  const balanced = presets.find((preset) => preset.id === "balanced");
  if (name !== null) {
    const save = () => {
      if (name.trim()) settled.save(name.trim());
      setName(null);
    };
    return (
      <>
        <input
          className="namefield"
          aria-label={words.presetName}
          placeholder={words.presetName}
          value={name}
          // biome-ignore lint/a11y/noAutofocus: the reader asked for this field
          autoFocus
          onChange={(event) => setName(event.target.value)}
          onKeyDown={(event) => event.key === "Enter" && !event.nativeEvent.isComposing && save()}
        />
        <Button className="line" disabled={!name.trim()} onClick={save}>
          {words.savePreset}
        </Button>
        <Button onClick={() => setName(null)}>{words.cancel}</Button>
      </>
    );
  }
  return (
    <>
      <Button className="line" onClick={() => setName("")}>
        {words.savePreset}
      </Button>
      <Button onClick={() => balanced && settled.apply(balanced)}>{words.reset}</Button>
    </>
  );
}

const SHOWN = 7; // choices

function Distribution({ view, sampling }: { view: ChatView | null; sampling: Sampling }) {
  const words = useWords();
  const last = useLastChoice(view);
  if (!last) return <p className="dist muted">{words.noDistribution}</p>;
  return (
    <figure className="dist">
      <ol>
        {distribution(last, sampling)
          .slice(0, SHOWN)
          .map((share, at) => (
            <li key={at} className={share.excludedBy ? "cut" : ""}>
              <span>
                <Visible text={share.choice.text} />
              </span>
              <span className="b">
                <i style={{ width: `${share.left * 100}%` }} />
                <u style={{ left: `${share.own * 100}%` }} />
              </span>
              <span>{share.excludedBy ? UNKNOWN : percent(share.left)}</span>
            </li>
          ))}
      </ol>
      <figcaption>{words.distribution}</figcaption>
    </figure>
  );
}

/** The choices of the last answer's last token where the model hesitated, else of its last one. */
function useLastChoice(view: ChatView | null): Choice[] | null {
  const [choices, setChoices] = useState<Choice[] | null>(null);
  const turn = view?.path.findLast(
    (place) => place.turn.role === "assistant" && place.turn.hasTokens,
  )?.turn;
  // biome-ignore lint/correctness/useExhaustiveDependencies: again when this answer was stored anew
  useEffect(() => {
    if (!turn) return setChoices(null);
    let isStale = false;
    void actions.loadTokens(turn.id).then((tokens) => {
      const open = tokens?.findLast(
        (token) => token.top.length > 1 && token.top[0]!.logprob < -0.2,
      );
      if (!isStale) setChoices((open ?? tokens?.at(-1))?.top ?? null);
    });
    return () => {
      isStale = true;
    };
  }, [turn?.id, turn?.version]);
  return choices?.length ? choices : null;
}

function SystemField({ settled }: { settled: Settled }) {
  const words = useWords();
  const note = useId();
  return (
    <div className="field">
      <label htmlFor="system-prompt">{words.systemPrompt}</label>
      <span />
      <textarea
        id="system-prompt"
        rows={3}
        dir="auto"
        aria-describedby={note}
        value={settled.settings?.system ?? ""}
        onChange={(event) => settled.update({ system: event.target.value })}
      />
      <p id={note}>{words.systemPromptNote}</p>
    </div>
  );
}
