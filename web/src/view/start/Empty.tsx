/** The start page of a new chat: the mark, one sentence, four ways in. */

import { Icon, type IconName, Mark } from "../../icons";
import { useWords } from "../../words";
import type { Asking } from "../composer/useAsking";
import { useUi } from "../ui";

interface Start {
  icon: IconName;
  title: string;
  note: string;
  act: () => void;
}

export function Empty({ asking }: { asking: Asking }) {
  const words = useWords();
  const ui = useUi();
  const starts: Start[] = [
    {
      icon: "clock",
      title: words.start1,
      note: words.start1Note,
      act: () => asking.send(words.start1),
    },
    {
      icon: "bars",
      title: words.start2,
      note: words.start2Note,
      act: () => {
        ui.setShaded(true);
        asking.send(words.start2Text);
      },
    },
    {
      icon: "json",
      title: words.start3,
      note: words.start3Note,
      act: () => {
        asking.setText(words.start3Text);
        ui.setDrawer("schema");
      },
    },
    {
      icon: "redo",
      title: words.start4,
      note: words.start4Note,
      act: () => asking.send(words.start4Text),
    },
  ];
  return (
    <div className="scroll">
      <div className="turn empty">
        <div className="in">
          <Mark className="mk" />
          <h2>{words.hello}</h2>
          <p className="lead">{words.helloNote}</p>
          <div className="starts">
            {starts.map((start) => (
              <button key={start.title} type="button" onClick={start.act}>
                <Icon name={start.icon} />
                <b>{start.title}</b>
                <span>{start.note}</span>
              </button>
            ))}
          </div>
        </div>
      </div>
    </div>
  );
}
