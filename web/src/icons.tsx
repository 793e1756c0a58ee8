/** All icons, on a grid of 20 units with strokes of 1.5 and round ends, and the mark. */

import mark from "../public/mark.svg?raw";

const paths = {
  plus: "M10 4v12M4 10h12",
  search: "M9 4a5 5 0 1 0 0 10A5 5 0 0 0 9 4zM12.7 12.7 16.5 16.5",
  menu: "M3 6h14M3 10h14M3 14h9",
  sliders:
    "M3 6h7M14 6h3M3 14h3M10 14h7M12 4a2 2 0 1 0 0 4 2 2 0 0 0 0-4zM8 12a2 2 0 1 0 0 4 2 2 0 0 0 0-4z",
  bars: "M3.5 16.5h13M5 13.5v-3M9 13.5V4M13 13.5V7.5",
  prompt: "M7 3.5H3.5v13H7M13 3.5h3.5v13H13M8 8h4M8 12h2.5",
  engine: "M3.5 3.5h5v5h-5zM11.5 3.5h5v5h-5zM3.5 11.5h5v5h-5zM11.5 11.5h5v5h-5z",
  copy: "M7.5 7.5h9v9h-9zM12.5 7.5v-4h-9v9h4",
  edit: "M4 16l.8-3.8L13 4l3 3-8.2 8.2zM11.5 5.5l3 3",
  redo: "M15.8 8.5A6 6 0 1 0 16 11.5M16.2 4.5v4h-4",
  fork: "M6 6.5v7M6 13.5c0-4 8-2 8-7M6 3a1.7 1.7 0 1 0 0 3.5A1.7 1.7 0 0 0 6 3zM14 3a1.7 1.7 0 1 0 0 3.5A1.7 1.7 0 0 0 14 3zM6 13.5a1.7 1.7 0 1 0 0 3.5 1.7 1.7 0 0 0 0-3.5z",
  left: "M12 5l-5 5 5 5",
  right: "M8 5l5 5-5 5",
  check: "M4.5 10.5l3.5 3.5 7.5-8.5",
  x: "M5.5 5.5l9 9M14.5 5.5l-9 9",
  up: "M10 16V4.5M5 9.5l5-5 5 5",
  down: "M10 4v11.5M5 10.5l5 5 5-5",
  sun: "M10 7a3 3 0 1 0 0 6 3 3 0 0 0 0-6zM10 2.5v1.5M10 16v1.5M2.5 10H4M16 10h1.5M4.7 4.7l1 1M14.3 14.3l1 1M4.7 15.3l1-1M14.3 5.7l1-1",
  moon: "M16 11.8A6.5 6.5 0 1 1 8.2 4a5.2 5.2 0 0 0 7.8 7.8z",
  gear: "M10 7.5a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5zM10 3v2M10 15v2M3 10h2M15 10h2M5 5l1.5 1.5M13.5 13.5 15 15M5 15l1.5-1.5M13.5 6.5 15 5",
  json: "M8 3.5c-3 0-2 3-2 4.5S5 10 4 10c1 0 2 .5 2 2s-1 4.5 2 4.5M12 3.5c3 0 2 3 2 4.5s1 2 2 2c-1 0-2 .5-2 2s1 4.5-2 4.5",
  tool: "M12.5 3.5a4 4 0 0 0-4 5.3L3.5 13.8l2.7 2.7 5-5a4 4 0 0 0 5.2-5L14 9l-2.8-.2L11 6z",
  dots: "M4.7 10a.6.6 0 1 0 1.2 0 .6.6 0 1 0-1.2 0M9.4 10a.6.6 0 1 0 1.2 0 .6.6 0 1 0-1.2 0M14.1 10a.6.6 0 1 0 1.2 0 .6.6 0 1 0-1.2 0",
  warn: "M10 3.5 17.5 16.5h-15zM10 8.5v3.5M10 14.2v.1",
  offline:
    "M3 3l14 14M5 9a7 7 0 0 1 3-1.7M2.5 6.3A11 11 0 0 1 5 4.7M15 9a7 7 0 0 0-3-1.7M17.5 6.3A11 11 0 0 0 9 3.6M8 12.5a3 3 0 0 1 4 0M10 15.5h.01",
  chat: "M3.5 4.5h13v9h-7l-3.5 3v-3h-2.5z",
  pin: "M7 3.5h6l-1 5 2.5 3h-9l2.5-3zM10 11.5v5",
  file: "M5 3.5h6l4 4v9H5zM11 3.5v4h4",
  text: "M4 5h12M4 10h12M4 15h7",
  take: "M5 4v5a3 3 0 0 0 3 3h7M11.5 8.5 15 12l-3.5 3.5",
  clock: "M10 3a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM10 6v4l2.5 2",
} as const;

export type IconName = keyof typeof paths;

export function Icon({ name }: { name: IconName }) {
  return (
    <svg className="i" viewBox="0 0 20 20" aria-hidden="true">
      <path d={paths[name]} />
    </svg>
  );
}

/** The square that stops an answer: the only icon that is filled. */
export function StopIcon() {
  return (
    <svg className="i" viewBox="0 0 20 20" aria-hidden="true">
      <rect x="5" y="5" width="10" height="10" rx="2" fill="currentColor" stroke="none" />
    </svg>
  );
}

const markPath = / d="([^"]+)"/.exec(mark)?.[1];

/** A llama whose ears are the two l of the name, from the file that is also the icon. */
export function Mark({ className }: { className?: string }) {
  return (
    <svg viewBox="0 0 24 24" aria-hidden="true" className={className}>
      <path fillRule="evenodd" d={markPath} />
    </svg>
  );
}
