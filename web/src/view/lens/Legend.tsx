/** What the shades mean, in a row below the bar. */

import { useWords } from "../../words";

export function Legend() {
  const words = useWords();
  return (
    <div className="lensline show">
      <div className="legend">
        <span className="hidephone">{words.howSure}</span>
        <span>
          <span className="t">≥ 90 %</span>
        </span>
        <span>
          <span className="t p1">50–90</span>
        </span>
        <span>
          <span className="t p2">20–50</span>
        </span>
        <span>
          <span className="t p3">&lt; 20 %</span>
        </span>
        <span className="end">{words.beforeTemperature}</span>
      </div>
    </div>
  );
}
