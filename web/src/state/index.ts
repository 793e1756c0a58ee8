/** What views import: hooks to read, `actions` to do. */

export type { ChatCell } from "./cells";
export type { Actions, ChatView, SchemaVerdict } from "./contract";
export * from "./hooks";
export { BUILT_IN } from "./settings";
