/** Files: saving one to the reader's disk, and asking for one. */

export function saveFile(content: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** Return a name that every file system takes. */
export function fileName(title: string): string {
  const letters = title.replace(/[^\p{L}\p{N} _-]/gu, "").trim();
  return `${Array.from(letters).slice(0, 60).join("") || "chat"}.json`;
}
