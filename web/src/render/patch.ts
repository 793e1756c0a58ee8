/**
 * Changes what an element contains to what some HTML says, and leaves alone what is there already.
 *
 * A text that grows is appended to: its layout is not begun again, and what the reader has selected in
 * it stays selected.
 */

// Parsed in a document of its own, where nothing is loaded.
const inert = document.implementation.createHTMLDocument("");

/** @param html sanitised. */
export function patch(element: Element, html: string): void {
  const holder = inert.createElement("div");
  holder.innerHTML = html;
  patchChildren(element, holder);
}

function patchChildren(parent: Element, wanted: Element): void {
  let place = parent.firstChild;
  for (const node of [...wanted.childNodes]) {
    if (!place) {
      parent.append(node);
      continue;
    }
    const next: ChildNode | null = place.nextSibling;
    if (!patchNode(place, node)) place.replaceWith(node);
    place = next;
  }
  while (place) {
    const next: ChildNode | null = place.nextSibling;
    place.remove();
    place = next;
  }
}

/** Whether the node could be made what is wanted. */
function patchNode(node: ChildNode, wanted: ChildNode): boolean {
  if (node instanceof Text && wanted.nodeType === Node.TEXT_NODE) {
    const text = wanted.textContent ?? "";
    if (text === node.data) return true;
    if (text.startsWith(node.data)) node.appendData(text.slice(node.data.length));
    else node.data = text;
    return true;
  }
  if (!(node instanceof Element) || !isSameTag(node, wanted)) return false;
  patchChildren(node, wanted);
  return true;
}

function isSameTag(node: Element, wanted: ChildNode): wanted is Element & ChildNode {
  return node.cloneNode(false).isEqualNode(wanted.cloneNode(false));
}
