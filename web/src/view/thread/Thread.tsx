/** The thread of a chat: its questions and answers, and what follows their growth. */

import { Fragment, memo, type RefObject, useEffect, useLayoutEffect, useMemo, useRef } from "react";

import { Icon } from "../../icons";
import type { Place, Turn, TurnId } from "../../model";
import type { ChatView } from "../../state";
import { useWords } from "../../words";
import { useUi } from "../ui";
import { useFollow } from "../useFollow";
import { Answer } from "./Answer";
import { Question } from "./Question";
import { Status } from "./Status";

export default memo(function Thread({
  view,
  scroll,
}: {
  view: ChatView;
  scroll: RefObject<HTMLDivElement | null>;
}) {
  const words = useWords();
  const content = useRef<HTMLDivElement>(null);
  const { isAway, toEnd } = useFollow(scroll, content);
  // biome-ignore lint/correctness/useExhaustiveDependencies: again for each chat
  useLayoutEffect(toEnd, [view.chat.id, toEnd]);
  useEndAfterAsking(view.path, toEnd);
  useLegendShift(scroll);
  return (
    <>
      <div
        className="scroll"
        ref={scroll}
        tabIndex={0}
        role="log"
        aria-live="off"
        aria-label={words.chats}
      >
        <div ref={content}>
          <Turns view={view} />
        </div>
      </div>
      <Status path={view.path} />
      <div className="jumpline">
        <button type="button" className="btn jump" hidden={!isAway} onClick={toEnd}>
          <Icon name="down" />
          {words.latest}
        </button>
      </div>
    </>
  );
});

function Turns({ view }: { view: ChatView }) {
  const ui = useUi();
  const { path, leftOut } = view;
  const results = useResults(path);
  const last = path.findLast((place) => place.turn.role === "assistant")?.turn.id ?? null;
  const begins = leftOut > 0 ? (path[leftOut]?.turn.id ?? null) : null;
  return useGroups(path).map((places) => {
    const own = (id: TurnId | null) => (places.some(({ turn }) => turn.id === id) ? id : null);
    return (
      <Group
        key={places[0]!.turn.id}
        places={places}
        last={own(last)}
        end={own(path.at(-1)?.turn.id ?? null)}
        begins={own(begins)}
        leftOut={own(begins) === null ? 0 : leftOut}
        schema={view.chat.settings.schema}
        results={results}
        editing={own(ui.editing)}
        inspected={own(ui.inspected)}
        raw={ui.raw}
        isShaded={ui.isShaded}
      />
    );
  });
}

/** So many turns are laid out, and compared by React, together. */
const GROUP = 8;
const TURN_HEIGHT = 360; // pixels: a guess at what was not laid out yet

/** The turns that are shown, in groups; a group whose turns did not change is the same as before. */
function useGroups(path: readonly Place[]): readonly Place[][] {
  const last = useRef<Place[][]>([]);
  return useMemo(() => {
    const shown = path.filter(({ turn }) => turn.role === "user" || turn.role === "assistant");
    const groups: Place[][] = [];
    for (let at = 0; at < shown.length; at += GROUP) {
      const old = last.current[at / GROUP];
      const group = shown.slice(at, at + GROUP);
      const isSame = old?.length === group.length && group.every((place, k) => place === old[k]);
      groups.push(isSame ? old : group);
    }
    last.current = groups;
    return groups;
  }, [path]);
}

interface GroupProps {
  places: readonly Place[];
  /** Turns, where they are of this group: the last answer and turn, the first of the prompt. */
  last: TurnId | null;
  end: TurnId | null;
  begins: TurnId | null;
  leftOut: number;
  schema: string | null;
  results: ReadonlyMap<string, Turn>;
  editing: TurnId | null;
  inspected: TurnId | null;
  raw: ReadonlySet<TurnId>;
  isShaded: boolean;
}

const Group = memo(function Group(props: GroupProps) {
  const { places, schema, results, editing, isShaded } = props;
  const words = useWords();
  return (
    <div
      className="turns"
      style={{ containIntrinsicBlockSize: `auto ${places.length * TURN_HEIGHT}px` }}
    >
      {places.map((place) => (
        <Fragment key={place.turn.id}>
          {place.turn.id === props.begins && (
            <div className="turn" id="prompt-begins">
              <div className="divider">{words.notInPrompt(props.leftOut)}</div>
            </div>
          )}
          {place.turn.role === "user" ? (
            <Question
              place={place}
              isEditing={editing === place.turn.id}
              isOpen={props.end === place.turn.id}
            />
          ) : (
            <Answer
              place={place}
              isLast={place.turn.id === props.last}
              schema={(place.turn.asked ?? { schema }).schema}
              results={results}
              isEditing={editing === place.turn.id}
              isRaw={props.raw.has(place.turn.id)}
              isShaded={isShaded}
              isInspected={props.inspected === place.turn.id}
            />
          )}
        </Fragment>
      ))}
    </div>
  );
});

const NO_RESULTS: ReadonlyMap<string, Turn> = new Map();

/** What tools gave, by the id of the call. */
function useResults(path: readonly Place[]): ReadonlyMap<string, Turn> {
  return useMemo(() => {
    const tools = path.filter(({ turn }) => turn.role === "tool");
    if (tools.length === 0) return NO_RESULTS;
    return new Map(tools.map(({ turn }) => [turn.toolCallId ?? "", turn]));
  }, [path]);
}

/** Go to the end when a turn is added that was asked for here. */
function useEndAfterAsking(path: readonly Place[], toEnd: () => void): void {
  const length = useRef(path.length);
  useEffect(() => {
    if (path.length > length.current && path.at(-1)?.turn.status === "writing") toEnd();
    length.current = path.length;
  }, [path, toEnd]);
}

/** The legend's row takes its height from the top; what is read stays where it is. */
function useLegendShift(scroll: RefObject<HTMLElement | null>): void {
  const { isShaded } = useUi();
  const before = useRef(isShaded);
  useLayoutEffect(() => {
    if (before.current === isShaded) return;
    before.current = isShaded;
    const legend = document.querySelector<HTMLElement>(".lensline");
    const height = legend?.offsetHeight || 34;
    if (scroll.current) scroll.current.scrollTop += isShaded ? height : -height;
  }, [isShaded, scroll]);
}
