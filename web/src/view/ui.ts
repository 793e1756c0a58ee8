/** What is open on the page: which chat, which lens, which menu. Of this tab, not stored. */

import {
  createContext,
  type Dispatch,
  type SetStateAction,
  useCallback,
  useContext,
  useEffect,
  useMemo,
  useRef,
  useState,
} from "react";

import type { ChatId, TurnId } from "../model";

export type DrawerName = "prompt" | "sampling" | "schema" | "tools";
export type OverlayName = "palette" | "settings" | "keys";

export interface Toast {
  text: string;
  undo?: () => void;
}

/** A menu that hangs from a button, or a sheet on a phone. */
export interface OpenMenu {
  kind: "chat" | "row" | "turn";
  id: string;
  anchor: DOMRect;
}

export interface Ui {
  /** The chat that is read; null: the start page of a new one. */
  chat: ChatId | null;
  openChat: (id: ChatId | null) => void;
  isEngine: boolean;
  setEngine: (on: boolean) => void;
  drawer: DrawerName | null;
  setDrawer: (name: DrawerName | null) => void;
  isShaded: boolean;
  setShaded: Dispatch<SetStateAction<boolean>>;
  overlay: OverlayName | null;
  setOverlay: (name: OverlayName | null) => void;
  menu: OpenMenu | null;
  setMenu: (menu: OpenMenu | null) => void;
  isNavOpen: boolean;
  setNavOpen: (on: boolean) => void;
  /** The turn that is a field now. */
  editing: TurnId | null;
  setEditing: (turn: TurnId | null) => void;
  /** The chat whose title is a field now, and where: in the list or in the bar. */
  renaming: { chat: ChatId; place: "list" | "bar" } | null;
  setRenaming: (value: Ui["renaming"]) => void;
  /** Answers shown as raw text, and with their tokens listed. */
  raw: ReadonlySet<TurnId>;
  toggleRaw: (turn: TurnId) => void;
  inspected: TurnId | null;
  setInspected: (turn: TurnId | null) => void;
  toast: Toast | null;
  showToast: (toast: Toast | null) => void;
}

/** What opens and closes things: the same functions as long as the page lives. */
export type UiActions = Pick<
  Ui,
  | "openChat"
  | "setDrawer"
  | "setShaded"
  | "setOverlay"
  | "setMenu"
  | "setEditing"
  | "setRenaming"
  | "toggleRaw"
  | "setInspected"
  | "showToast"
>;

const TOAST_TIME = 8000; // milliseconds

export const UiContext = createContext<Ui | null>(null);

export function useUi(): Ui {
  const ui = useContext(UiContext);
  if (!ui) throw new Error("outside of the page");
  return ui;
}

export const UiActionsContext = createContext<UiActions | null>(null);

/** For what there are many of, such as turns: what is open elsewhere does not render them again. */
export function useUiActions(): UiActions {
  const actions = useContext(UiActionsContext);
  if (!actions) throw new Error("outside of the page");
  return actions;
}

/** Return what the address says: "#/c/ID", "#/engine", or a new chat. */
function readAddress(): { chat: ChatId | null; isEngine: boolean } {
  const [, kind, id] = location.hash.split("/");
  return { chat: kind === "c" && id ? decodeURIComponent(id) : null, isEngine: kind === "engine" };
}

/** Follow the address; `openChat` and `setEngine` change it, so that the browser's way back works. */
function useAddress(): Pick<Ui, "chat" | "openChat" | "isEngine" | "setEngine"> {
  const [at, setAt] = useState(readAddress);
  const last = useRef<ChatId | null>(at.chat);
  useEffect(() => {
    const onChange = () =>
      setAt((before) => {
        const next = readAddress();
        if (!next.isEngine) last.current = next.chat;
        return next.isEngine ? { chat: before.chat, isEngine: true } : next;
      });
    addEventListener("hashchange", onChange);
    return () => removeEventListener("hashchange", onChange);
  }, []);
  const openChat = useCallback((id: ChatId | null) => {
    last.current = id;
    location.hash = id ? `/c/${encodeURIComponent(id)}` : "/";
    setAt({ chat: id, isEngine: false });
  }, []);
  const setEngine = useCallback(
    (on: boolean) => {
      if (on) location.hash = "/engine";
      else openChat(last.current);
    },
    [openChat],
  );
  return { ...at, openChat, setEngine };
}

/** A toast goes after eight seconds; the next one takes its place. */
function useToast(): Pick<Ui, "toast" | "showToast"> {
  const [toast, showToast] = useState<Toast | null>(null);
  useEffect(() => {
    if (!toast) return;
    const timer = setTimeout(() => showToast(null), TOAST_TIME);
    return () => clearTimeout(timer);
  }, [toast]);
  return { toast, showToast };
}

export function useUiState(): { ui: Ui; uiActions: UiActions } {
  const address = useAddress();
  const toasts = useToast();
  const [drawer, setDrawer] = useState<DrawerName | null>(null);
  const [isShaded, setShaded] = useState(false);
  const [overlay, setOverlay] = useState<OverlayName | null>(null);
  const [menu, setMenu] = useState<OpenMenu | null>(null);
  const [isNavOpen, setNavOpen] = useState(false);
  const [editing, setEditing] = useState<TurnId | null>(null);
  const [renaming, setRenaming] = useState<Ui["renaming"]>(null);
  const [raw, setRaw] = useState<ReadonlySet<TurnId>>(new Set());
  const [inspected, setInspected] = useState<TurnId | null>(null);
  const toggleRaw = useCallback((turn: TurnId) => {
    setRaw((before) => {
      const next = new Set(before);
      if (!next.delete(turn)) next.add(turn);
      return next;
    });
  }, []);
  const { chat, openChat: goToChat, isEngine, setEngine } = address;
  const { toast, showToast } = toasts;
  const openChat = useCallback(
    (id: ChatId | null) => {
      setNavOpen(false);
      setEditing(null);
      goToChat(id);
    },
    [goToChat],
  );
  const uiActions = useMemo(
    () => ({
      ...{ openChat, setDrawer, setShaded, setOverlay, setMenu, setEditing, setRenaming },
      ...{ toggleRaw, setInspected, showToast },
    }),
    [openChat, toggleRaw, showToast],
  );
  const ui = useMemo<Ui>(
    () => ({
      chat,
      openChat,
      isEngine,
      setEngine: (on) => {
        setNavOpen(false);
        setEngine(on);
      },
      drawer,
      setDrawer,
      isShaded,
      setShaded,
      overlay,
      setOverlay,
      menu,
      setMenu,
      isNavOpen,
      setNavOpen,
      editing,
      setEditing,
      renaming,
      setRenaming,
      raw,
      toggleRaw,
      inspected,
      setInspected,
      toast,
      showToast,
    }),
    [
      chat,
      openChat,
      isEngine,
      setEngine,
      drawer,
      isShaded,
      overlay,
      menu,
      isNavOpen,
      editing,
      renaming,
      raw,
      toggleRaw,
      inspected,
      toast,
      showToast,
    ],
  );
  return { ui, uiActions };
}
