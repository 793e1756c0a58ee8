/** The choices that stood beside a token: a popover below it; one of them can be taken. */

import { type RefObject, useCallback, useEffect, useLayoutEffect, useRef, useState } from "react";

import { Icon } from "../../icons";
import type { Choice, TokenRecord, Turn } from "../../model";
import { actions, type ChatView, useServer } from "../../state";
import { useWords, type Words } from "../../words";
import { Segments } from "../parts/buttons";
import { useFocusInside } from "../parts/focus";
import { percent } from "../thread/numbers";
import { distribution, entropy, type Rule, type Share } from "./distribution";
import { Layers } from "./Layers";
import { Visible } from "./Visible";
import "../../styles/popover.css";

interface Chosen {
  turn: Turn;
  at: number;
  token: TokenRecord;
  span: HTMLElement;
}

/** Listens to the shaded tokens of the thread: a press or Enter opens, arrows go from one to the next. */
export default function Alternatives({
  view,
  scroll,
}: {
  view: ChatView;
  scroll: RefObject<HTMLDivElement | null>;
}) {
  const [chosen, setChosen] = useState<Chosen | null>(null);
  const close = useCallback(() => setChosen(null), []);
  const latest = useRef(view);
  useEffect(() => {
    latest.current = view;
  });

  useEffect(() => {
    const box = scroll.current;
    if (!box) return;
    const open = async (span: HTMLElement) => {
      const id = span.closest<HTMLElement>("[data-turn]")?.dataset.turn;
      const turn = latest.current.path.find((place) => place.turn.id === id)?.turn;
      const at = Number(span.dataset.k);
      const token = turn && (await actions.loadTokens(turn.id))?.[at];
      if (turn && token) setChosen({ turn, at, token, span });
    };
    const spanOf = (event: Event) =>
      (event.target as HTMLElement).closest<HTMLElement>(".prose .t");
    const onClick = (event: MouseEvent) => {
      const span = spanOf(event);
      if (span && getSelection()?.isCollapsed !== false) void open(span);
      else setChosen(null);
    };
    const onKey = (event: KeyboardEvent) => {
      const span = spanOf(event);
      if (!span || event.altKey || event.ctrlKey || event.metaKey) return;
      if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
        event.preventDefault();
        moveTo(span, event.key === "ArrowRight" ? 1 : -1);
      } else if (event.key === "Enter" || event.key === "ArrowDown") {
        event.preventDefault();
        void open(span);
      }
    };
    box.addEventListener("click", onClick);
    box.addEventListener("keydown", onKey);
    return () => {
      box.removeEventListener("click", onClick);
      box.removeEventListener("keydown", onKey);
    };
  }, [scroll]);

  if (!chosen?.span.isConnected) return null;
  return <Popover key={`${chosen.turn.id}:${chosen.at}`} chosen={chosen} close={close} />;
}

/** Give the focus to the next token, or the one before: one of an answer's can be reached by Tab. */
function moveTo(span: HTMLElement, by: 1 | -1): void {
  const all = [...(span.closest(".prose")?.querySelectorAll<HTMLElement>(".t") ?? [])];
  const next = all[all.indexOf(span) + by];
  if (!next) return;
  span.removeAttribute("tabindex");
  next.tabIndex = 0;
  next.focus();
}

function Popover({ chosen, close }: { chosen: Chosen; close: () => void }) {
  const words = useWords();
  const ref = useRef<HTMLDivElement>(null);
  const { turn, at, token, span } = chosen;
  const sampling = turn.sampling ?? {};
  const shares = distribution(withWritten(token), sampling);
  const written = shares.findIndex((share) => isSame(share.choice, token));
  const firstOther = shares.findIndex((share, k) => k !== written && !share.excludedBy);
  const [cursor, setCursor] = useState(firstOther < 0 ? written : firstOther);
  const server = useServer();
  const props = server.kind === "ready" ? server.props : null;
  const [tab, setTab] = useState<"choices" | "layers">("choices");
  useFocusInside(ref, close);
  usePlace(ref, span, tab);
  useEffect(() => {
    span.classList.add("on");
    return () => span.classList.remove("on");
  }, [span]);
  useEffect(() => {
    const onPress = (event: PointerEvent) => {
      const target = event.target as HTMLElement;
      if (!ref.current?.contains(target) && !target.closest(".prose .t")) close();
    };
    document.addEventListener("pointerdown", onPress);
    return () => document.removeEventListener("pointerdown", onPress);
  }, [close]);

  const canTake = (share: Share | undefined) =>
    share !== undefined && !share.excludedBy && !isSame(share.choice, token);
  const take = (share: Share | undefined) => {
    if (!share || !canTake(share)) return;
    actions.continueFrom(turn.id, at, share.choice);
    close();
  };
  const move = (by: 1 | -1) => {
    const open = shares.flatMap((share, k) => (share.excludedBy ? [] : [k]));
    const now = open.indexOf(cursor);
    setCursor(open[(now + by + open.length) % open.length] ?? cursor);
  };
  const { bits, isExact } = entropy(withWritten(token));
  return (
    <div
      ref={ref}
      className="pop"
      role="dialog"
      aria-label={`${words.probabilities}: ${token.text}`}
      tabIndex={-1}
      onKeyDown={(event) => {
        if (tab === "layers" || isButton(event.target)) return;
        if (event.key === "ArrowDown" || event.key === "ArrowUp") {
          event.preventDefault();
          move(event.key === "ArrowDown" ? 1 : -1);
        } else if (event.key === "Enter") {
          event.preventDefault();
          take(shares[cursor]);
        }
      }}
    >
      <header>
        {props?.hasLayers ? (
          <Segments
            className="sm"
            label={words.probabilities}
            options={[
              ["choices", words.choices],
              ["layers", words.layers],
            ]}
            value={tab}
            onChange={setTab}
          />
        ) : (
          <span>{words.choices}</span>
        )}
        {tab === "choices" && (
          <span>
            {isExact ? words.entropy(bits.toFixed(1)) : words.entropyAtLeast(bits.toFixed(1))}
          </span>
        )}
      </header>
      {tab === "layers" && <Layers turn={turn} at={at} />}
      <div
        hidden={tab === "layers"}
        role="listbox"
        aria-label={words.choices}
        aria-activedescendant={`choice-${cursor}`}
        tabIndex={0}
        data-autofocus
      >
        {shares.map((share, k) => (
          <ChoiceRow
            key={k}
            index={k}
            share={share}
            line={
              share.excludedBy && !shares[k - 1]?.excludedBy
                ? ruleWords(share.excludedBy, turn, words)
                : null
            }
            isWritten={k === written}
            isCurrent={k === cursor}
            pick={() => setCursor(k)}
            take={() => take(share)}
          />
        ))}
      </div>
      <footer>
        <span>{rankWords(token, written, props?.vocabulary ?? null, words)}</span>
        {tab === "choices" && (
          <button
            type="button"
            className="btn prime sm"
            disabled={!canTake(shares[cursor])}
            onClick={() => take(shares[cursor])}
          >
            <Icon name="take" />
            {words.continueHere}
          </button>
        )}
      </footer>
    </div>
  );
}

function ChoiceRow({
  index,
  share,
  line,
  isWritten,
  isCurrent,
  pick,
  take,
}: {
  index: number;
  share: Share;
  line: string | null;
  isWritten: boolean;
  isCurrent: boolean;
  pick: () => void;
  take: () => void;
}) {
  return (
    <>
      {line && (
        <div className="cut" role="presentation">
          {line}
        </div>
      )}
      <button
        type="button"
        id={`choice-${index}`}
        role="option"
        aria-selected={isWritten}
        tabIndex={-1}
        className={isCurrent ? "alt cur" : "alt"}
        disabled={share.excludedBy !== null}
        onClick={pick}
        onDoubleClick={take}
      >
        <span>{isWritten ? <Icon name="check" /> : isCurrent && <Icon name="take" />}</span>
        <span className="w">
          <Visible text={share.choice.text} />
        </span>
        <span className="track">
          <i style={{ width: `${share.own * 100}%` }} />
        </span>
        <span className="pc">{percent(share.own)}</span>
      </button>
    </>
  );
}

function ruleWords(rule: Rule, turn: Turn, words: Words): string {
  const sampling = turn.sampling ?? {};
  if (rule === "greedy") return words.greedyOnly;
  if (rule === "top_k") return words.beyondTopK(String(sampling.top_k));
  if (rule === "top_p") return words.beyondTopP(String(sampling.top_p));
  return words.belowMinP(String(sampling.min_p));
}

/** Where the written token stood: of all that the model chooses among, where that is known. */
function rankWords(token: TokenRecord, at: number, all: number | null, words: Words): string {
  if (!isAmong(token)) return words.choiceBeyond(token.top.length);
  return all === null ? words.choiceRank(at + 1) : words.choiceOf(at + 1, all);
}

const isSame = (a: Choice, b: Choice) =>
  a.id !== null && b.id !== null ? a.id === b.id : a.text === b.text;

const isAmong = (token: TokenRecord) => token.top.some((choice) => isSame(choice, token));

function withWritten(token: TokenRecord): Choice[] {
  if (isAmong(token)) return token.top;
  return [...token.top, { id: token.id, text: token.text, logprob: token.logprob }];
}

/** Enter presses the button that has the focus, and takes nothing. */
const isButton = (target: EventTarget) => (target as HTMLElement).tagName === "BUTTON";

const GAP = 8; // pixels
const EDGE = 12;

/** Below the token, above it where there is no room; on a phone the style makes it a sheet. */
function usePlace(ref: RefObject<HTMLElement | null>, span: HTMLElement, tab: string): void {
  // biome-ignore lint/correctness/useExhaustiveDependencies: another tab has another height
  useLayoutEffect(() => {
    const pop = ref.current;
    const frame = pop?.offsetParent;
    if (!pop || !frame) return;
    const inside = frame.getBoundingClientRect();
    const token = span.getClientRects()[0] ?? span.getBoundingClientRect();
    const left = Math.min(token.left - inside.left - 20, inside.width - pop.offsetWidth - EDGE);
    const below = token.bottom - inside.top + GAP;
    const hasRoom = below + pop.offsetHeight < inside.height;
    const top = hasRoom ? below : Math.max(GAP, token.top - inside.top - GAP - pop.offsetHeight);
    pop.style.left = `${Math.max(EDGE, left)}px`;
    pop.style.top = `${top}px`;
  }, [ref, span, tab]);
}
