/** A dialog over a scrim: focus goes in, stays, and returns; a press beside it closes it. */

import { type ReactNode, useRef } from "react";

import { useFocusInside } from "./focus";

export function Dialog({
  label,
  className,
  close,
  children,
}: {
  label: string;
  className: string;
  close: () => void;
  children: ReactNode;
}) {
  const ref = useRef<HTMLDivElement>(null);
  useFocusInside(ref, close);
  return (
    <div
      className="scrim"
      onPointerDown={(event) => event.target === event.currentTarget && close()}
    >
      <div
        ref={ref}
        className={className}
        role="dialog"
        aria-modal="true"
        aria-label={label}
        tabIndex={-1}
      >
        {children}
      </div>
    </div>
  );
}
