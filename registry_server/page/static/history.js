// What happened, the latest first, and further back as one scrolls.

import { clock } from "./clock.js";
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
    this.ending = [];
    this.asked = "";
    this.hasMore = true;
    this.list = new List({ label: "Events", height: 30, fill: (row, it) => this.fill(row, it), opened: (it) => it.isGap || go({ namespace: it.namespace, name: it.service }, it.instance) });
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
    this.ending = [];
    this.show();
    this.further();
  }

  /** The number of the latest that is known, 0 for none. */
  get latest() {
    return Math.floor(this.events[0]?.id ?? 0);
  }

  /** What comes is put on top; who has scrolled down goes on looking at the same. Where more came than is told at once,
   * or another server tells (`anew`), which numbers in its own way, the list is begun anew, from the latest. */
  told(_, { events, more, lost, anew }) {
    const come = events.map(happening).filter((it) => anew || it.id > this.latest);
    if (anew) this.ending = [gap("another server, or another start of it: what was before is not known here")];
    if (anew || (more && come.length === events.length)) {
      this.events = [];
      this.hasMore = true;
    } else if (lost && this.events.length) come.push(gap("some of what happened here may be forgotten already", this.latest + 0.5));
    this.events.unshift(...come);
    this.events.length = Math.min(this.events.length, MOST);
    const { scrollTop } = this.list.node;
    this.show();
    if (scrollTop > this.list.height) this.list.node.scrollTop = scrollTop + come.filter((it) => this.fits(it)).length * this.list.height;
    this.further();
  }

  async further() {
    const { scrollTop, clientHeight } = this.list.node;
    const last = (scrollTop + clientHeight) / this.list.height;
    if (this.isAsking || !this.hasMore || this.events.length >= MOST || last < this.list.items.length - AHEAD) return;
    this.isAsking = true;
    try {
      await this.more();
    } catch (error) {
      this.isAsking = false;
      this.note.textContent = error.message; // it is asked again as one scrolls, or something comes
      return;
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
    return !this.asked || it.isGap || `${it.name} ${it.cause} ${it.by} ${it.said}`.toLowerCase().includes(this.asked);
  }

  show() {
    const shown = this.events.filter((it) => this.fits(it));
    this.list.show(this.hasMore ? shown : [...shown, ...this.ending]);
    this.note.textContent = shown.length ? `${number(shown.length)}${this.hasMore ? " so far" : ""}` : this.hasMore ? "…" : "nothing that is remembered";
  }

  tick() {
    this.list.refresh();
  }

  fill(row, it) {
    row.dataset.state = it.state;
    if (it.isGap) {
      cells(row, ["", "", "⋯", it.said, "", ""]);
      row.title = it.said;
      return;
    }
    cells(row, [`${span(clock.now() - it.at)} ago`, it.name, it.cause, it.late ? `${it.said} (maybe earlier)` : it.said, it.by, it.revision], ["", "name", "state", "", "", "number"]);
    row.title = `${new Date(it.at).toLocaleString("en-GB")}: ${it.name} ${it.cause} ${it.said}`;
  }
}

/** A line in the place of what nobody knows; its number is between those around it. */
function gap(said, id = 0) {
  return { isGap: true, id, said, state: "gone" };
}
