// Elements from data. Strings become text nodes or properties, never markup; the pages' policy forbids that too.

/** An element with its properties (`onclick` and the like are listeners) and children. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === 'class') element.className = value;
    else if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name in element && !name.startsWith('aria-')) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const SVG = document.createElementNS('http://www.w3.org/2000/svg', 'svg').namespaceURI;

/** An SVG element with its attributes and children. */
export function drawn(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export const byId = id => document.getElementById(id);

/** Writes text only where it changed: an unchanged node is not announced, selected text stays selected. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Makes the children of `parent` those of `items`, in their order. A child is made once per key and updated from then
 * on, so what is focused, open or hovered stays so.
 */
export function keyed(parent, items, key, create, update) {
  const focused = document.activeElement;
  const old = new Map([...parent.children].map(child => [child.dataset.key, child]));
  let next = parent.firstElementChild;
  for (const item of items) {
    const name = String(key(item));
    const child = old.get(name) ?? create(item);
    child.dataset.key = name;
    old.delete(name);
    update(child, item);
    if (next === child) next = child.nextElementSibling;
    else parent.insertBefore(child, next);
  }
  for (const child of old.values()) child.remove();
  if (focused !== document.activeElement && parent.contains(focused)) focused.focus({ preventScroll: true });
}
