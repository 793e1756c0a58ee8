export { copyText } from "./copy";
export { useBlocks } from "./hooks";
export { patch } from "./patch";
export { shadeOf } from "./shades";
export type { Block, Shade } from "./types";
