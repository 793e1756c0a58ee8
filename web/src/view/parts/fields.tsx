/** Fields of drawers and settings: a label, a control, and one line that says what it means. */

import { type ReactNode, useId, useState } from "react";

import { useWords } from "../../words";

/** A slider with its typed value beside it; a changed one is bold and offers its first value back. */
export function SliderField({
  label,
  note,
  min,
  max,
  step,
  value,
  initial,
  digits,
  onChange,
}: {
  label: string;
  note: string;
  min: number;
  max: number;
  step: number;
  value: number;
  initial: number;
  digits: number;
  onChange: (value: number) => void;
}) {
  const words = useWords();
  const id = useId();
  const [typed, setTyped] = useState<string>();
  const isChanged = value !== initial;
  const finish = () => {
    const number = Number(typed);
    setTyped(undefined);
    if (typed?.trim() && Number.isFinite(number)) onChange(Math.min(max, Math.max(min, number)));
  };
  return (
    <div className={isChanged ? "field changed" : "field"}>
      <label htmlFor={id}>{label}</label>
      <span className="value">
        {isChanged && (
          <button type="button" className="back" onClick={() => onChange(initial)}>
            {words.resetTo(initial.toFixed(digits))}
          </button>
        )}
        <input
          type="text"
          inputMode="decimal"
          aria-label={label}
          value={typed ?? value.toFixed(digits)}
          onChange={(event) => setTyped(event.target.value)}
          onBlur={finish}
          onKeyDown={(event) => event.key === "Enter" && finish()}
        />
      </span>
      <input
        id={id}
        type="range"
        min={min}
        max={max}
        step={step}
        value={value}
        style={{ "--v": `${((value - min) / (max - min)) * 100}%` } as React.CSSProperties}
        onChange={(event) => onChange(Number(event.target.value))}
      />
      <p>{note}</p>
    </div>
  );
}

/** A whole number, or nothing. What is no whole number is not taken, and is marked. */
export function NumberField({
  label,
  note,
  placeholder = "",
  value,
  onChange,
}: {
  label: string;
  note: string;
  placeholder?: string;
  value: number | undefined;
  onChange: (value: number | undefined) => void;
}) {
  const id = useId();
  const [typed, setTyped] = useState<string>();
  const shown = typed ?? (value === undefined ? "" : String(value));
  const isWrong = shown.trim() !== "" && !/^\d+$/.test(shown.trim());
  return (
    <div className={value === undefined ? "field" : "field changed"}>
      <label htmlFor={id}>{label}</label>
      <input
        id={id}
        type="text"
        inputMode="numeric"
        placeholder={placeholder}
        value={shown}
        aria-invalid={isWrong || undefined}
        onChange={(event) => {
          const text = event.target.value;
          setTyped(text);
          if (text.trim() === "") onChange(undefined);
          else if (/^\d+$/.test(text.trim())) onChange(Number(text));
        }}
        onBlur={() => setTyped(undefined)}
      />
      <p>{note}</p>
    </div>
  );
}

export function SwitchField({
  label,
  note,
  checked,
  onChange,
}: {
  label: string;
  note: string;
  checked: boolean;
  onChange: (checked: boolean) => void;
}) {
  const id = useId();
  return (
    <div className="field">
      <label htmlFor={id}>{label}</label>
      <input
        id={id}
        type="checkbox"
        role="switch"
        aria-checked={checked}
        className="switch"
        checked={checked}
        onChange={(event) => onChange(event.target.checked)}
      />
      <p>{note}</p>
    </div>
  );
}

/** A field whose control stands in the place of the value. */
export function Field({
  label,
  note,
  children,
}: {
  label: string;
  note?: string;
  children: ReactNode;
}) {
  return (
    <div className="field">
      <span>{label}</span>
      {children}
      {note && <p>{note}</p>}
    </div>
  );
}
