/** A model's name and device, as short as the page has room for. */

const FILE = /[.-]((?:I?Q\d\w*)|BF16|F16|F32)\.gguf$/i;

/** The name without its file's ending: "SmolLM2-135M-Instruct · Q4_1". */
export function modelName(name: string): string {
  return name.replace(FILE, " · $1").replace(/\.gguf$/i, "");
}

/** What it runs on: a description without the format, which the name tells, and the usual weights. */
export function deviceName(description: string): string {
  const parts = description.split(" · ");
  const device = parts.filter((part, k) => k > 0 && part !== "weights as stored");
  return (device.length ? device : parts).join(" · ");
}
