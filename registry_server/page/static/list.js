// A list of any length, of which only the rows that are seen are in the document. Goes by keys and by screen readers.

import { el } from "./dom.js";

const SPARE = 6;
const ROW_KEYS = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1 };
let lists = 0;

export class List {
  /** `fill(row, item)` puts an item into a row; `opened(item)` is told which one is chosen. */
  constructor({ label, height = 32, fill, opened = () => {} }) {
    this.height = height;
    this.fill = fill;
    this.opened = opened;
    this.items = [];
    this.chosen = null;
    this.rows = new Map();
    this.prefix = `list${(lists += 1)}`;
    this.space = el("div", { className: "space", role: "rowgroup" });
    this.node = el("div", { className: "list", role: "grid", tabindex: 0, aria: { label, rowcount: 0 } }, this.space);
    this.node.addEventListener("scroll", () => this.ask());
    this.node.addEventListener("keydown", (event) => this.key(event));
    this.node.addEventListener("click", (event) => this.clicked(event));
    this.sizes = new ResizeObserver(() => this.ask());
    this.sizes.observe(this.node);
  }

  /** Show these; rows are redrawn whose item is another object than before. */
  show(items) {
    this.items = items;
    this.ask();
  }

  /** Draw all rows that are seen again: their ages, say. */
  refresh() {
    for (const row of this.rows.values()) row.item = null;
    this.ask();
  }

  choose(id) {
    this.chosen = id;
    this.ask();
  }

  /** Scroll to what is chosen. */
  reveal() {
    const place = this.items.findIndex((it) => it.id === this.chosen);
    if (place < 0) return;
    const top = place * this.height;
    const { scrollTop, clientHeight } = this.node;
    if (top < scrollTop) this.node.scrollTop = top;
    else if (top + this.height > scrollTop + clientHeight) this.node.scrollTop = top + this.height - clientHeight;
  }

  ask() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      this.draw();
    });
  }

  draw() {
    const { items, height, rows } = this;
    this.space.style.height = `${items.length * height}px`;
    this.node.setAttribute("aria-rowcount", items.length);
    const first = Math.max(0, Math.floor(this.node.scrollTop / height) - SPARE);
    const last = Math.min(items.length, Math.ceil((this.node.scrollTop + this.node.clientHeight) / height) + SPARE);
    const idle = [];
    for (const [place, row] of rows) {
      if (place < first || place >= last) {
        idle.push(row);
        rows.delete(place);
      }
    }
    for (let place = first; place < last; place += 1) {
      const row = rows.get(place) ?? this.row(idle.pop(), place);
      if (row.item !== items[place]) this.put(row, items[place]);
      row.node.setAttribute("aria-selected", items[place].id === this.chosen);
      if (items[place].id === this.chosen) this.node.setAttribute("aria-activedescendant", row.node.id);
    }
    for (const row of idle) row.node.remove();
  }

  row(used, place) {
    const row = used ?? { node: el("div", { className: "row", role: "row" }), item: null };
    row.node.style.transform = `translateY(${place * this.height}px)`;
    row.node.style.height = `${this.height}px`;
    row.node.id = `${this.prefix}-${place}`;
    row.node.setAttribute("aria-rowindex", place + 1);
    if (!used) this.space.append(row.node);
    row.item = null;
    this.rows.set(place, row);
    return row;
  }

  put(row, item) {
    row.item = item;
    this.fill(row.node, item);
  }

  clicked(event) {
    const node = event.target.closest(".row");
    const row = node && [...this.rows.values()].find((it) => it.node === node);
    if (row) this.open(row.item);
  }

  open(item) {
    this.choose(item.id);
    this.opened(item);
  }

  key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const page = Math.max(1, Math.floor(this.node.clientHeight / this.height) - 1);
    const now = this.items.findIndex((it) => it.id === this.chosen);
    const to = {
      ...Object.fromEntries(Object.entries(ROW_KEYS).map(([key, by]) => [key, now + by])),
      PageDown: now + page,
      PageUp: now - page,
      Home: 0,
      End: this.items.length - 1,
    }[event.key];
    if (event.key === "Enter" && this.items[now]) this.opened(this.items[now]);
    else if (to === undefined || !this.items.length) return;
    else {
      this.choose(this.items[Math.min(Math.max(to, 0), this.items.length - 1)].id);
      this.reveal();
      this.ask();
    }
    event.preventDefault();
  }
}

/** Cells of a row, made once and filled again. */
export function cells(row, texts, classes = []) {
  while (row.childElementCount < texts.length) {
    row.append(el("span", { role: "gridcell", className: classes[row.childElementCount] ?? "" }));
  }
  texts.forEach((text, place) => {
    const cell = row.children[place];
    if (typeof text === "object") cell.replaceChildren(text);
    else if (cell.textContent !== String(text)) cell.textContent = text;
    if (typeof text !== "object" && cell.title !== String(text)) cell.title = text;
  });
}
