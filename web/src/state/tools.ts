/** Reads tools as typed. */

import type { Tool } from "../model";

/** Read a list of functions, in OpenAI's form or without its wrapping. */
export function checkTools(text: string): { tools: Tool[] } | { error: string } {
  if (!text.trim()) return { tools: [] };
  let values: unknown;
  try {
    values = JSON.parse(text);
  } catch (error) {
    return { error: (error as SyntaxError).message };
  }
  const tools: Tool[] = [];
  for (const [k, value] of (Array.isArray(values) ? values : [values]).entries()) {
    const wrapped = value as { function?: unknown } | null;
    const given = (wrapped?.function ?? value) as Partial<Tool> | null;
    if (typeof given?.name !== "string" || !/^[\w-]{1,64}$/.test(given.name)) {
      return { error: `tool ${k + 1} has no name of letters, digits, _ and -` };
    }
    const { name, description, parameters } = given;
    if (tools.some((tool) => tool.name === name)) return { error: `${name} is there twice` };
    tools.push({
      name,
      description: typeof description === "string" ? description : "",
      parameters: parameters ?? { type: "object", properties: {} },
    });
  }
  return { tools };
}
