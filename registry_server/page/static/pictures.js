// Numbers as pictures. Each has its numbers as text beside it, or as its label.

import { el, svg } from "./dom.js";
import { STATES, shares, span } from "./model.js";

/** Parts of a whole, side by side; `parts` are names of states and how many. */
export function bar(parts, { width = 90, height = 10, label = "" } = {}) {
  const total = parts.reduce((sum, [, count]) => sum + count, 0);
  const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", aria: { label } });
  picture.append(svg("rect", { width, height, rx: 2, class: "fill-none" }));
  let from = 0;
  for (const [state, count] of parts) {
    const size = total ? (count / total) * width : 0;
    if (size) picture.append(svg("rect", { x: from, width: Math.max(size, 1.5), height, class: `fill-${state}` }));
    from += size;
  }
  return picture;
}

/** One number beside the largest there is. */
export function weight(value, most) {
  const width = most ? (value / most) * 34 : 0;
  const picture = svg("svg", { width: 34, height: 8, role: "img", aria: { label: `weight ${value}` } });
  picture.append(svg("rect", { width: 34, height: 8, rx: 2, class: "fill-none" }), svg("rect", { width, height: 8, rx: 2, class: "fill-mark" }));
  return el("span", {}, picture, ` ${value}`);
}

/** The latest values, as a line. */
export function spark(values, width = 66, height = 22) {
  const most = Math.max(...values, 1e-9);
  const step = width / Math.max(values.length - 1, 1);
  const points = values.map((it, place) => `${(place * step).toFixed(1)},${(height - 1 - (it / most) * (height - 3)).toFixed(1)}`);
  return svg("svg", { width, height, aria: { hidden: "true" } }, svg("polyline", { points: points.join(" "), class: "spark" }));
}

/** Every instance as a square of its state's colour. `place(x, y)` says which one is there. */
export class Mosaic {
  constructor(chosen) {
    this.items = [];
    this.canvas = el("canvas", { className: "mosaic", role: "img" });
    this.canvas.addEventListener("mousemove", (event) => {
      const it = this.at(event);
      this.canvas.title = it ? `${it.id}: ${it.text}` : "";
    });
    this.canvas.addEventListener("click", (event) => {
      const it = this.at(event);
      if (it) chosen(it);
    });
  }

  at(event) {
    const { side, across } = this.grid();
    const x = Math.floor(event.offsetX / side);
    return x < across ? this.items[Math.floor(event.offsetY / side) * across + x] : undefined;
  }

  grid() {
    const width = this.canvas.clientWidth || 300;
    const height = this.canvas.clientHeight || 76;
    let side = Math.min(18, Math.sqrt((width * height) / Math.max(this.items.length, 1)));
    while (side > 1 && Math.floor(width / side) * Math.floor(height / side) < this.items.length) side -= 0.25;
    side = Math.max(side, 1);
    return { side, across: Math.max(1, Math.floor(width / side)), width, height };
  }

  draw(items, label) {
    this.items = items;
    const { side, across, width, height } = this.grid();
    const scale = window.devicePixelRatio || 1;
    this.canvas.width = width * scale;
    this.canvas.height = height * scale;
    this.canvas.setAttribute("aria-label", label);
    const to = this.canvas.getContext("2d");
    to.scale(scale, scale);
    const style = getComputedStyle(this.canvas);
    const gap = side > 4 ? 1 : 0;
    for (const [state] of STATES) {
      to.fillStyle = style.getPropertyValue(`--${state}`);
      for (let place = 0; place < items.length; place += 1) {
        if (items[place].state !== state) continue;
        to.fillRect((place % across) * side, Math.floor(place / across) * side, side - gap, side - gap);
      }
    }
  }
}

/** How many there are of each state, in words. */
export function legend(counts) {
  const shown = STATES.filter(([state]) => counts.get(state));
  const item = ([state, name]) => el("li", {}, el("span", { className: "state", data: { state }, text: `${counts.get(state).toLocaleString("en")} ${name}` }));
  return el("ul", { className: "legend" }, shown.map(item));
}

/** How the weight of those that take calls is shared among versions, zones … */
export function shared(items, of, caption) {
  const found = shares(items, of);
  const line = ([name, part]) => {
    const said = `${(part * 100).toFixed(part < 0.1 ? 1 : 0)} %`;
    return el("div", { className: "share" }, el("span", { text: name, title: name }), bar([["mark", part], ["none", 1 - part]], { width: 120, label: `${name}: ${said}` }), el("span", { className: "number", text: said }));
  };
  return el("figure", {}, el("figcaption", { text: caption }), found.length ? found.map(line) : el("p", { className: "note", text: "nothing takes traffic" }));
}

/** The life of an instance: `spells` are `[state, from, to]` in ms, `marks` are `[at, text]`. */
export function life(spells, marks, from, to) {
  const width = 360;
  const place = (at) => ((Math.min(Math.max(at, from), to) - from) / Math.max(to - from, 1)) * width;
  const said = spells.map(([state, begins, ends]) => `${state} for ${span(ends - begins)}`).join(", ");
  const picture = svg("svg", { viewBox: `0 0 ${width} 30`, class: "line", role: "img", aria: { label: `its life: ${said}` } });
  picture.append(svg("rect", { y: 8, width, height: 12, rx: 2, class: "fill-none" }));
  for (const [state, begins, ends] of spells) {
    const x = place(begins);
    picture.append(svg("rect", { x, y: 8, width: Math.max(place(ends) - x, 1), height: 12, class: `fill-${state}` }, svg("title", { text: `${state}, ${span(ends - begins)}` })));
  }
  for (const [at, text] of marks) {
    picture.append(svg("path", { d: `M${place(at)} 4v20`, stroke: "currentColor", "stroke-width": 1 }, svg("title", { text })));
  }
  return picture;
}
