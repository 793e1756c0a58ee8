/** The list of keys. */

import { useWords } from "../../words";
import { IconButton } from "../parts/buttons";
import { Dialog } from "../parts/Dialog";

const modifier = /Mac|iPhone|iPad/.test(navigator.platform) ? "⌘" : "Ctrl";

export function Keys({ close }: { close: () => void }) {
  const words = useWords();
  const keys: [string[], string][] = [
    [["Enter"], words.send],
    [["↑"], words.keysEditLast],
    [["Esc"], words.keysStop],
    [[modifier, "K"], words.search],
    [[modifier, "Shift", "O"], words.newChat],
    [["P"], words.probabilities],
    [["X"], words.prompt],
    [["E"], words.engine],
    [["S"], words.sampling],
    [["/"], words.keysComposer],
    [["J", "K"], words.keysNextTurn],
    [["[", "]"], words.keysBranch],
    [["R"], words.regenerate],
    [["C"], words.copy],
    [["F2"], words.rename],
  ];
  return (
    <Dialog label={words.shortcuts} className="sheet" close={close}>
      <header>
        <h2>{words.shortcuts}</h2>
        <IconButton icon="x" label={words.close} onClick={close} />
      </header>
      <dl className="keylist">
        {keys.map(([names, meaning]) => (
          <div key={meaning}>
            <dt>
              {names.map((name) => (
                <kbd key={name}>{name}</kbd>
              ))}
            </dt>
            <dd>{meaning}</dd>
          </div>
        ))}
      </dl>
    </Dialog>
  );
}
