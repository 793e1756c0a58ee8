/** The requests that run and those that wait; of other people's, route and counts only. */

import { Icon } from "../../icons";
import type { ChatSummary, EngineRequest, EngineState } from "../../model";
import type { ChatView } from "../../state";
import { useWords, type Words } from "../../words";

interface Named {
  chat: ChatView | null;
  chats: readonly ChatSummary[];
}

export function Requests({ engine, ...named }: { engine: EngineState | null } & Named) {
  const words = useWords();
  const running = engine?.running ?? [];
  const waiting = engine?.waiting ?? [];
  const longest = Math.max(
    1,
    ...running.map((request) => request.promptTokens + request.drawnTokens),
  );
  return (
    <>
      <h2>
        {words.running}
        <small>
          <i className="sw hit" />
          {words.keyCached} <i className="sw" />
          {words.keyReads} <i className="sw dec" />
          {words.keyWrites}
        </small>
      </h2>
      {running.length === 0 && <p className="hintline">{words.nothingRuns}</p>}
      <ul className="seqs">
        {running.map((request, at) => (
          <Running
            key={at}
            request={request}
            longest={longest}
            name={nameOf(request, named, words)}
          />
        ))}
      </ul>
      <h2 className="later">{words.waiting}</h2>
      {waiting.length === 0 && <p className="hintline">{words.nothingWaits}</p>}
      <ul className="seqs">
        {waiting.map((request, at) => (
          <li key={at} className="wait">
            <Icon name="clock" />
            <span>{nameOf(request, named, words).text}</span>
            <span />
            <span className="n">{words.waitsTokens(request.promptTokens)}</span>
            <span className="n">{at === 0 ? words.next : `${at + 1}.`}</span>
          </li>
        ))}
      </ul>
    </>
  );
}

/** The chat's title where it is this browser's, else the route. */
function nameOf(
  request: EngineRequest,
  { chat, chats }: Named,
  words: Words,
): { text: string; isMine: boolean } {
  const isMine =
    request.turn !== null && (chat?.path.some(({ turn }) => turn.id === request.turn) ?? false);
  if (isMine && chat) return { text: chat.chat.title || words.untitled, isMine };
  const other = chats.find((each) => each.id === request.chat);
  const text = other ? other.title || words.untitled : request.route || words.request;
  return { text, isMine: false };
}

function Running({
  request,
  longest,
  name,
}: {
  request: EngineRequest;
  longest: number;
  name: { text: string; isMine: boolean };
}) {
  const words = useWords();
  const { cachedTokens, computedTokens, promptTokens, drawnTokens } = request;
  const isDecode = request.stage === "decode";
  const done = isDecode ? promptTokens : Math.max(computedTokens, cachedTokens);
  return (
    <li className={name.isMine ? "me" : undefined}>
      <Icon name={isDecode ? "edit" : "text"} />
      <span>{name.text}</span>
      <span
        className="lane"
        aria-hidden="true"
        style={{ width: `${((promptTokens + drawnTokens) / longest) * 100}%` }}
      >
        {cachedTokens > 0 && <i className="hit" style={{ flex: cachedTokens }} />}
        {done > cachedTokens && <i className="pre" style={{ flex: done - cachedTokens }} />}
        {promptTokens > done && <i className="todo" style={{ flex: promptTokens - done }} />}
        {drawnTokens > 0 && <i className="dec" style={{ flex: drawnTokens }} />}
      </span>
      <span className="n">
        {isDecode ? words.writesCount(drawnTokens) : words.readsOf(done, promptTokens)}
      </span>
    </li>
  );
}
