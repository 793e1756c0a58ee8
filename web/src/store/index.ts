export * from "./repository";
export * from "./transfer";
