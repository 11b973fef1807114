// Elements. Whatever comes from the registry goes in as text, never as markup: nothing here parses any.

export const $ = (id) => document.getElementById(id);

/** An element with properties and children; `data` and `aria` are given as objects, what is no element is text. */
export function el(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

/** The same of a picture. */
export function svg(tag, properties = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), properties, children);
}

function filled(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") node.textContent = value;
    else if (name === "data") Object.assign(node.dataset, value);
    else if (name === "aria") for (const [key, it] of Object.entries(value)) node.setAttribute(`aria-${key}`, it);
    else if (name === "on") for (const [event, it] of Object.entries(value)) node.addEventListener(event, it);
    else node.setAttribute(name === "className" ? "class" : name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((it) => it !== null && it !== undefined && it !== ""));
  return node;
}

/** Names and values, one under the other; what is empty is left out. */
export function pairs(...items) {
  const shown = items.filter(([, value]) => value !== "" && value !== undefined && value !== null);
  return el("dl", { className: "pairs" }, shown.map(([name, value]) => [el("dt", { text: name }), el("dd", {}, value)]));
}

/** Says something to screen readers and puts it nowhere else. */
export function say(text) {
  const said = $("said") ?? document.body.appendChild(el("p", { id: "said", className: "unseen", role: "status" }));
  if (said.textContent !== text) said.textContent = text;
}
