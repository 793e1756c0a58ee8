export { copyText } from "./copy";
export { useBlocks } from "./hooks";
export { shadeOf } from "./shades";
export type { Block, Shade } from "./types";
