/// <reference types="vitest/config" />
import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";
import { firstPaint } from "./build/first_paint.ts";

const SERVER = process.env.CULLAMA_SERVER ?? "http://127.0.0.1:8000";
const ROUTES = [
  "/v1",
  "/tokenize",
  "/detokenize",
  "/apply-template",
  "/check-form",
  "/layers",
  "/health",
  "/engine",
  "/props",
];

export default defineConfig({
  base: "./", // the server may have a prefix
  plugins: [react(), firstPaint(110_000)],
  build: {
    outDir: "../src/cullama/server/web",
    emptyOutDir: true,
    assetsInlineLimit: 0, // data: addresses are not allowed by the server's policy
    target: "es2023",
    modulePreload: { polyfill: false },
  },
  worker: { format: "es" },
  server: {
    // The server takes only pages of its own as Origin: to it, the proxy is one.
    proxy: Object.fromEntries(
      ROUTES.map((route) => [
        route,
        { target: SERVER, changeOrigin: true, headers: { origin: SERVER } },
      ]),
    ),
  },
  test: {
    environment: "jsdom",
    include: ["tests/**/*.test.{ts,tsx}"],
    setupFiles: ["tests/setup.ts"],
  },
});
