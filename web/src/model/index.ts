export * from "./ids";
export * from "./presets";
export * from "./tree";
export * from "./turns";
export * from "./types";
