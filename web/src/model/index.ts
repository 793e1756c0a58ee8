export * from "./ids";
export * from "./tree";
export * from "./turns";
export * from "./types";
