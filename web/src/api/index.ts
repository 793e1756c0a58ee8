export * from "./answer";
export * from "./client";
export * from "./engine";
export * from "./events";
export * from "./props";
export * from "./wire";
