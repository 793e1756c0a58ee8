/** The tokens of an answer as a table: for screen readers, and for whoever wants the figures. */

import { useEffect, useState } from "react";

import type { TokenRecord, Turn } from "../../model";
import { actions } from "../../state";
import { useWords } from "../../words";
import { percent, UNKNOWN } from "../thread/numbers";
import { Visible } from "./Visible";

const MOST = 2000; // rows

export default function Inspection({ turn }: { turn: Turn }) {
  const words = useWords();
  const [tokens, setTokens] = useState<TokenRecord[] | null>();
  useEffect(() => {
    void actions.loadTokens(turn.id).then(setTokens);
  }, [turn.id]);
  if (tokens === undefined) return null;
  if (!tokens?.length) return <p className="cutline">{words.noLogprobs}</p>;
  return (
    <div className="wide inspection" tabIndex={0} role="region" aria-label={words.inspectTokens}>
      <table>
        <thead>
          <tr>
            <th className="r">#</th>
            <th>{words.token}</th>
            <th className="r">{words.id}</th>
            <th className="r">{words.probability}</th>
            <th>{words.likeliest}</th>
          </tr>
        </thead>
        <tbody>
          {tokens.slice(0, MOST).map((token, at) => (
            <tr key={at}>
              <td className="r">{at + 1}</td>
              <td className="mono">
                <Visible text={token.text} />
              </td>
              <td className="r">{token.id ?? UNKNOWN}</td>
              <td className="r">{percent(Math.exp(token.logprob))}</td>
              <td className="mono">
                {token.top[0] ? <Visible text={token.top[0].text} /> : UNKNOWN}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
