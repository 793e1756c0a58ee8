/** The engine as it serves: four figures, requests, blocks of the cache, roofline, step time. */

import type { EngineState } from "../../model";
import { type ChatView, useChats, useEngine } from "../../state";
import { useWords } from "../../words";
import { Bar } from "../frame/Bar";
import { rate, UNKNOWN } from "../thread/numbers";
import { useEngineKeys } from "../useKeys";
import { Blocks } from "./KvBlocks";
import { Requests } from "./Requests";
import { Roofline } from "./Roofline";
import { StepTimes } from "./StepTimes";
import "../../styles/keys.css";
import "../../styles/engine.css";

export default function EngineView({ chat }: { chat: ChatView | null }) {
  const words = useWords();
  const engine = useEngine();
  const chats = useChats();
  useEngineKeys();
  const isLive = engine?.isLive ?? false;
  return (
    <>
      <Bar chat={chat?.chat ?? null} live={isLive} />
      <div className="scroll" tabIndex={0} role="region" aria-label={words.engine}>
        <div className={isLive ? "engine" : "engine old"}>
          <Figures engine={engine} />
          <div className="cols">
            <section className="pane">
              <Requests engine={engine} chat={chat} chats={chats ?? []} />
            </section>
            <section className="pane">
              <Roofline engine={engine} />
            </section>
            <section className="pane">
              <Blocks blocks={engine?.blocks ?? null} />
            </section>
            <section className="pane">
              <StepTimes steps={engine?.steps ?? []} />
            </section>
          </div>
        </div>
      </div>
    </>
  );
}

function Figures({ engine }: { engine: EngineState | null }) {
  const words = useWords();
  const share = engine?.cachedShare ?? null;
  return (
    <div className="figs">
      <div>
        <b>
          {engine?.tokensPerSecond == null ? UNKNOWN : rate(engine.tokensPerSecond)}{" "}
          <small>{words.tokensPerSecond}</small>
        </b>
        <span>{words.figWritten}</span>
      </div>
      <div>
        <b>{engine ? words.count(engine.running.length) : UNKNOWN}</b>
        <span>{words.figRunning}</span>
      </div>
      <div>
        <b>{engine ? words.count(engine.waiting.length) : UNKNOWN}</b>
        <span>{words.figWaiting}</span>
      </div>
      <div>
        <b>
          {share === null ? UNKNOWN : Math.round(share * 100)} <small>%</small>
        </b>
        <span>{words.figCached}</span>
      </div>
    </div>
  );
}
