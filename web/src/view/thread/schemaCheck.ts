/**
 * Checks a JSON answer against the part of JSON Schema that a reader asks about: types, required
 * and unknown fields, items, enum, const, and bounds of numbers and lengths.
 *
 * The server's grammar is what holds the answer to the whole schema; this says how far it has come.
 */

export type AnswerVerdict =
  | { kind: "begun"; written: number; required: number }
  | { kind: "whole"; required: number }
  | { kind: "wrong"; where: string };

type Json = null | boolean | number | string | Json[] | { [name: string]: Json };
type Schema = { [name: string]: unknown };

export function checkAnswer(text: string, schemaText: string, isWriting: boolean): AnswerVerdict {
  let schema: Schema;
  try {
    schema = JSON.parse(schemaText) as Schema;
  } catch {
    schema = {};
  }
  const names = Array.isArray(schema.required) ? (schema.required as string[]) : [];
  let value: Json;
  try {
    value = JSON.parse(text) as Json;
  } catch (error) {
    if (!isWriting) return { kind: "wrong", where: (error as Error).message };
    const written = namesWritten(text);
    return {
      kind: "begun",
      written: names.filter((name) => written.has(name)).length,
      required: names.length,
    };
  }
  const wrong = mismatch(value, schema, "$");
  return wrong ? { kind: "wrong", where: wrong } : { kind: "whole", required: names.length };
}

/** The names of the outermost object whose values are complete: followed by a comma, or the end. */
export function namesWritten(text: string): Set<string> {
  const names = new Set<string>();
  let depth = 0;
  let name = "";
  let begun: string | null = null;
  for (let at = 0; at < text.length; at++) {
    const letter = text[at]!;
    if (letter === '"') {
      const end = closingQuote(text, at);
      if (end < 0) return names;
      if (depth === 1 && begun === null) name = text.slice(at + 1, end);
      at = end;
    } else if (letter === "{" || letter === "[") depth++;
    else if (letter === "}" || letter === "]") {
      depth--;
      if (depth === 0 && begun !== null) names.add(begun);
    } else if (depth === 1 && letter === ":") begun = name;
    else if (depth === 1 && letter === "," && begun !== null) {
      names.add(begun);
      begun = null;
    }
  }
  return names;
}

function closingQuote(text: string, open: number): number {
  for (let at = open + 1; at < text.length; at++) {
    if (text[at] === "\\") at++;
    else if (text[at] === '"') return at;
  }
  return -1;
}

function typeOf(value: Json): string {
  if (value === null) return "null";
  if (Array.isArray(value)) return "array";
  return typeof value;
}

function hasType(value: Json, wanted: string): boolean {
  if (wanted === "integer") return typeof value === "number" && Number.isInteger(value);
  return typeOf(value) === wanted;
}

/** Return the first place that does not fit, in words, or null. */
function mismatch(value: Json, schema: Schema, where: string): string | null {
  const wanted = schema.type === undefined ? [] : [schema.type].flat().map(String);
  if (wanted.length > 0 && !wanted.some((type) => hasType(value, type))) {
    return `${where}: ${typeOf(value)}, expected ${wanted.join(", ")}`;
  }
  if (Array.isArray(schema.enum) && !schema.enum.some((each) => same(each, value))) {
    return `${where}: ${JSON.stringify(value)} is none of ${JSON.stringify(schema.enum)}`;
  }
  if ("const" in schema && !same(schema.const, value)) {
    return `${where}: expected ${JSON.stringify(schema.const)}`;
  }
  if (typeof value === "number") return bounds(value, schema, "minimum", "maximum", where);
  if (typeof value === "string") {
    return bounds(Array.from(value).length, schema, "minLength", "maxLength", where);
  }
  if (Array.isArray(value)) return listMismatch(value, schema, where);
  if (typeof value === "object" && value !== null) return objectMismatch(value, schema, where);
  return null;
}

function bounds(size: number, schema: Schema, low: string, high: string, where: string) {
  const [least, most] = [schema[low], schema[high]];
  if (typeof least === "number" && size < least) return `${where}: ${low} ${least}`;
  if (typeof most === "number" && size > most) return `${where}: ${high} ${most}`;
  return null;
}

function listMismatch(value: Json[], schema: Schema, where: string): string | null {
  const wrong = bounds(value.length, schema, "minItems", "maxItems", where);
  if (wrong || typeof schema.items !== "object" || schema.items === null) return wrong;
  for (const [at, item] of value.entries()) {
    const found = mismatch(item, schema.items as Schema, `${where}[${at}]`);
    if (found) return found;
  }
  return null;
}

function objectMismatch(
  value: { [name: string]: Json },
  schema: Schema,
  where: string,
): string | null {
  const properties = (schema.properties ?? {}) as { [name: string]: Schema };
  const required = Array.isArray(schema.required) ? (schema.required as string[]) : [];
  for (const name of required) if (!Object.hasOwn(value, name)) return `${where}.${name}: missing`;
  for (const [name, item] of Object.entries(value)) {
    const part = Object.hasOwn(properties, name) ? properties[name] : undefined;
    if (part) {
      const found = mismatch(item, part, `${where}.${name}`);
      if (found) return found;
    } else if (schema.additionalProperties === false) return `${where}.${name}: not expected`;
  }
  return null;
}

function same(a: unknown, b: unknown): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}
