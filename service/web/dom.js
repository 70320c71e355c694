// Small helpers over the DOM. Text only ever goes in as text nodes, so no reply of the API can become markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false)
      node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const h = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

/** Write text only if it differs, so that a poll without news touches nothing. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setAttribute(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

/** Make `nodes` the children of `parent` and move as few as possible: moved nodes lose focus and scroll position. */
export function arrange(parent, nodes) {
  const wanted = new Set(nodes);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  let at = parent.firstElementChild;
  for (const node of nodes) {
    if (node === at) at = at.nextElementSibling;
    else parent.insertBefore(node, at);
  }
}

/** Copy a template of index.html into `parent`; returns its elements by their data-ref. */
export function mount(parent, templateId) {
  parent.replaceChildren(document.getElementById(templateId).content.cloneNode(true));
  return Object.fromEntries([...parent.querySelectorAll("[data-ref]")].map((node) => [node.dataset.ref, node]));
}

/** True the first time and then whenever `value` differs from the last call: guards a redraw. */
export function changes() {
  let last;
  return (value) => {
    const text = JSON.stringify(value);
    const differs = text !== last;
    last = text;
    return differs;
  };
}

/** Whether the viewer minds motion. */
export const still = () => window.matchMedia("(prefers-reduced-motion: reduce)").matches;

/** A select's options, as pairs of value and text. Those that differ are made anew; an open list is left alone otherwise. */
export function setOptions(select, options, value) {
  const text = JSON.stringify(options);
  if (select.dataset.options !== text) {
    select.dataset.options = text;
    select.replaceChildren(...options.map(([each, label]) => h("option", { value: each }, label)));
  }
  select.value = value;
}
