/** Buttons: with an icon alone, with words, and several of which one is pressed. */

import type { ButtonHTMLAttributes, ReactNode } from "react";

import { Icon, type IconName } from "../../icons";

type ButtonProps = ButtonHTMLAttributes<HTMLButtonElement>;

/** A button that is only an icon; its label is read by screen readers and shown on hover. */
export function IconButton({
  icon,
  label,
  className = "",
  ...rest
}: { icon: IconName; label: string } & ButtonProps) {
  return (
    <button
      type="button"
      className={`btn icon ${className}`}
      aria-label={label}
      title={label}
      {...rest}
    >
      <Icon name={icon} />
    </button>
  );
}

export function Button({
  icon,
  className = "",
  children,
  ...rest
}: { icon?: IconName; children: ReactNode } & ButtonProps) {
  return (
    <button type="button" className={`btn ${className}`} {...rest}>
      {icon && <Icon name={icon} />}
      {children}
    </button>
  );
}

/** A row of choices of which one is pressed. */
export function Segments<T extends string>({
  label,
  options,
  value,
  onChange,
  className = "",
}: {
  label: string;
  options: readonly (readonly [T, string])[];
  value: T | undefined;
  onChange: (value: T) => void;
  className?: string;
}) {
  return (
    <div className={`seg ${className}`} role="group" aria-label={label}>
      {options.map(([key, words]) => (
        <button key={key} type="button" aria-pressed={key === value} onClick={() => onChange(key)}>
          {words}
        </button>
      ))}
    </div>
  );
}
