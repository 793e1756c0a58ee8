/** A turn as a field. What is typed makes another branch; the version before stays. */

import { useId, useLayoutEffect, useRef, useState } from "react";

import { useSettings } from "../../state";
import { useWords } from "../../words";
import { Button } from "../parts/buttons";
import { fitToText, isComposing } from "../parts/typing";
import { useUiActions } from "../ui";

export function EditField({
  text,
  count,
  label,
  save,
}: {
  text: string;
  count: number;
  label: string;
  save: (text: string) => void;
}) {
  const words = useWords();
  const ui = useUiActions();
  const settings = useSettings();
  const id = useId();
  const field = useRef<HTMLTextAreaElement>(null);
  const [typed, setTyped] = useState(text);
  useLayoutEffect(() => {
    const box = field.current;
    if (!box) return;
    box.focus({ preventScroll: true });
    box.setSelectionRange(box.value.length, box.value.length);
  }, []);
  // biome-ignore lint/correctness/useExhaustiveDependencies: again for each text
  useLayoutEffect(() => fitToText(field.current), [typed]);
  const close = () => ui.setEditing(null);
  const finish = () => {
    if (!typed.trim()) return;
    save(typed);
    close();
  };
  return (
    <div className="edit">
      <label className="vh" htmlFor={id}>
        {words.edit}
      </label>
      <textarea
        id={id}
        ref={field}
        dir="auto"
        value={typed}
        onChange={(event) => setTyped(event.target.value)}
        onKeyDown={(event) => {
          if (isComposing(event)) return;
          if (event.key === "Escape") {
            event.stopPropagation();
            close();
          }
          const isSend = settings.enterSends ? !event.shiftKey : event.ctrlKey || event.metaKey;
          if (event.key === "Enter" && isSend && !matchMedia("(pointer: coarse)").matches) {
            event.preventDefault();
            finish();
          }
        }}
      />
      <div>
        <span>{words.editNote(count + 1)}</span>
        <Button onClick={close}>{words.cancel}</Button>
        <Button className="prime" disabled={!typed.trim()} onClick={finish}>
          {label}
        </Button>
      </div>
    </div>
  );
}
