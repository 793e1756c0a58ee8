/** Prints what the first paint loads, and fails the build where it is more than the bound. */

import { gzipSync } from "node:zlib";
import type { Plugin, Rolldown } from "vite";

type Bundle = Rolldown.OutputBundle;

export function firstPaint(bound: number): Plugin {
  return {
    name: "first-paint",
    apply: "build",
    generateBundle: {
      order: "post",
      handler(_options, bundle) {
        const names = firstFiles(bundle);
        const sizes = names.map((name) => [name, gzipSync(contents(bundle, name)).length] as const);
        const total = sizes.reduce((sum, [, size]) => sum + size, 0);
        const lines = sizes.map(([name, size]) => `  ${name} ${size.toLocaleString("en")} B`);
        this.info(
          `first paint: ${total.toLocaleString("en")} bytes with gzip, at most ` +
            `${bound.toLocaleString("en")}\n${lines.join("\n")}`,
        );
        if (total > bound) {
          this.error(`the first paint loads ${total} bytes with gzip, expected at most ${bound}`);
        }
      },
    },
  };
}

/** The page, its entries, what they import at once, and their styles. */
function firstFiles(bundle: Bundle): string[] {
  const found = new Set<string>();
  const open = Object.values(bundle)
    .filter((file) => file.type === "chunk" && file.isEntry)
    .map((file) => file.fileName);
  for (let name = open.pop(); name !== undefined; name = open.pop()) {
    const file = bundle[name];
    if (!file || found.has(name)) continue;
    found.add(name);
    if (file.type === "chunk") {
      open.push(...file.imports);
      const meta = (file as { viteMetadata?: { importedCss: Set<string> } }).viteMetadata;
      open.push(...(meta?.importedCss ?? []));
    }
  }
  for (const name of Object.keys(bundle)) if (name.endsWith(".html")) found.add(name);
  return [...found];
}

function contents(bundle: Bundle, name: string): string | Uint8Array {
  const file = bundle[name]!;
  return file.type === "chunk" ? file.code : file.source;
}
