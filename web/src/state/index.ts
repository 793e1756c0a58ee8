/** What views import: `start`, hooks to read, `actions` to do. */

export { actions } from "./actions";
export type { ChatCell } from "./cells";
export type { Actions, ChatView, SchemaVerdict } from "./contract";
export * from "./hooks";
export { start } from "./start";
