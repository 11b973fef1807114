// What happened, the latest first, and further back as one scrolls.

import { el } from "./dom.js";
import { List, cells } from "./list.js";
import { ask } from "./live.js";
import { happening, number, span } from "./model.js";

// So many events are kept at the most; rows from the end at which more are asked for.
const MOST = 20_000;
const AHEAD = 60;

export class History {
  constructor(go) {
    this.events = [];
    this.asked = "";
    this.hasMore = true;
    this.now = Date.now();
    this.list = new List({ label: "Events", height: 30, fill: (row, it) => this.fill(row, it), opened: (it) => go({ namespace: it.namespace, name: it.service }, it.instance) });
    this.list.node.addEventListener("scroll", () => this.further());
    this.note = el("p", { className: "note", role: "status" });
    this.field = el("input", { type: "search", placeholder: "only with this", aria: { label: "Only events with this text" }, maxlength: 200 });
    this.field.addEventListener("input", () => this.narrow());
    const heads = ["when", "instance", "what", "more", "by", "revision"].map((text) => el("span", { role: "columnheader", text }));
    this.nodes = [el("section", { className: "card wide-card of-events", aria: { label: "History" } }, el("div", { className: "bar" }, el("h2", { text: "History" }), this.note, this.field), el("div", { className: "heads", role: "row" }, heads), this.list.node)];
  }

  open() {
    this.events = [];
    this.hasMore = true;
    this.show();
    this.further();
  }

  /** What comes is put on top; who has scrolled down goes on looking at the same. */
  told(_, { events, more }) {
    if (more) return this.open();
    const known = this.events[0]?.id ?? 0;
    const come = events.map(happening).filter((it) => it.id > known);
    if (!come.length) return;
    this.events.unshift(...come);
    this.events.length = Math.min(this.events.length, MOST);
    const { scrollTop } = this.list.node;
    this.show();
    if (scrollTop > this.list.height) this.list.node.scrollTop = scrollTop + come.filter((it) => this.fits(it)).length * this.list.height;
  }

  async further() {
    const { scrollTop, clientHeight } = this.list.node;
    const last = (scrollTop + clientHeight) / this.list.height;
    if (this.isAsking || !this.hasMore || this.events.length >= MOST || last < this.list.items.length - AHEAD) return;
    this.isAsking = true;
    try {
      await this.more();
    } catch (error) {
      this.hasMore = false;
      this.note.textContent = error.message;
    }
    this.isAsking = false;
    if (this.hasMore) this.further();
  }

  async more() {
    const before = this.events.at(-1)?.id;
    const { events, more } = await ask(`history${before ? `?before=${before}` : ""}`);
    if (before !== this.events.at(-1)?.id) return;
    this.events.push(...events.map(happening));
    this.hasMore = more;
    this.show();
  }

  narrow() {
    this.asked = this.field.value.trim().toLowerCase();
    this.list.node.scrollTop = 0;
    this.show();
    this.further();
  }

  fits(it) {
    return !this.asked || `${it.name} ${it.cause} ${it.by} ${it.said}`.toLowerCase().includes(this.asked);
  }

  show() {
    const shown = this.asked ? this.events.filter((it) => this.fits(it)) : this.events.slice();
    this.list.show(shown);
    this.note.textContent = shown.length ? `${number(shown.length)}${this.hasMore ? " so far" : ""}` : this.hasMore ? "…" : "nothing that is remembered";
  }

  tick(now) {
    this.now = now;
    this.list.refresh();
  }

  fill(row, it) {
    row.dataset.state = it.state;
    cells(row, [`${span(this.now - it.at)} ago`, it.name, it.cause, it.late ? `${it.said} (maybe earlier)` : it.said, it.by, it.revision], ["", "name", "state", "", "", "number"]);
    row.title = `${new Date(it.at).toLocaleString("en-GB")}: ${it.name} ${it.cause} ${it.said}`;
  }
}
