/** A drawer: beside the column where there is room, else over it; on a phone a sheet from below. */

import { type ReactNode, useEffect, useRef } from "react";

import { useWords } from "../../words";
import { IconButton } from "./buttons";

export function Drawer({
  title,
  close,
  footer,
  children,
}: {
  title: string;
  close: () => void;
  footer?: ReactNode;
  children: ReactNode;
}) {
  const words = useWords();
  const ref = useRef<HTMLElement>(null);
  useEffect(() => {
    const before = document.activeElement;
    const root = ref.current;
    root?.querySelector<HTMLElement>("header button")?.focus({ preventScroll: true });
    return () => {
      const isFree =
        document.activeElement === document.body || root?.contains(document.activeElement);
      if (isFree && before instanceof HTMLElement && before.isConnected)
        before.focus({ preventScroll: true });
    };
  }, []);
  return (
    <aside
      ref={ref}
      className="drawer"
      aria-label={title}
      onKeyDown={(event) => {
        if (event.key !== "Escape" || event.nativeEvent.isComposing) return;
        event.stopPropagation();
        close();
      }}
    >
      <header>
        <h2>{title}</h2>
        <IconButton icon="x" label={words.close} onClick={close} />
      </header>
      <div className="body" tabIndex={0} role="region" aria-label={title}>
        {children}
      </div>
      {footer && <footer>{footer}</footer>}
    </aside>
  );
}
