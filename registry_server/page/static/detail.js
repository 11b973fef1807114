// One instance: all that is known of it, its checks, its life.

import { clock as server } from "./clock.js";
import { el, pairs } from "./dom.js";
import { ask } from "./live.js";
import { happening, reason, spells } from "./model.js";
import { life } from "./pictures.js";

const AGAIN_MS = 700;

export class Detail {
  constructor(closed) {
    this.closed = closed;
    this.node = el("section", { className: "card detail", hidden: true, aria: { label: "Instance" } });
  }

  /** Of this id; `row` is what the list knows of it, if anything. */
  show(service, id, row, isWhole) {
    this.node.hidden = !id;
    const name = id && `${service.namespace}/${service.name}/${id}`;
    if (name !== this.name) {
      this.known = null;
      this.askedAt = -Infinity;
    }
    Object.assign(this, { service, id, row, name, isWhole });
    if (id) {
      this.draw();
      this.askSoon();
    }
  }

  /** Not more often than so: an instance may change with every check. */
  askSoon() {
    clearTimeout(this.asking);
    this.asking = setTimeout(() => this.ask(), Math.max(0, this.askedAt + AGAIN_MS - performance.now()));
  }

  async ask() {
    const { name, service, id } = this;
    this.askedAt = performance.now();
    try {
      const known = await ask(`instance?${new URLSearchParams({ namespace: service.namespace, service: service.name, id })}`);
      if (name === this.name) this.known = { ...known, history: known.history.map(happening) };
    } catch (error) {
      if (name === this.name) this.known = { wrong: error.message };
    }
    if (name === this.name) this.draw();
  }

  draw() {
    const { id, row, known } = this;
    const close = el("button", { type: "button", text: "close", aria: { label: `close ${id}` }, on: { click: this.closed } });
    const parts = [el("div", { className: "bar" }, el("h2", { text: id }), close)];
    if (row) parts.push(el("p", { className: "state", data: { state: row.state }, text: row.text }));
    else if (this.isWhole && known && !known.instance) parts.push(el("p", { className: "state", data: { state: "gone" }, text: "not registered" }));
    if (known?.why) parts.push(...why(known.why));
    if (known?.wrong) parts.push(el("p", { className: "wrong", text: known.wrong }));
    if (known?.instance) parts.push(...facts(known.instance));
    else if (row) parts.push(pairs(["address", row.address], ["weight", `${row.weight}`], ["version", row.version], ["zone", row.zone]));
    if (row?.gone && !known?.history?.length) parts.push(el("p", { text: `left: ${reason(row.gone.cause, row.gone.said)}` }));
    parts.push(...history(known?.history, row));
    const { scrollTop } = this.node;
    const isOpen = this.node.querySelector("details")?.open;
    const isFocused = this.node.contains(document.activeElement) && document.activeElement.tagName;
    this.node.replaceChildren(...parts);
    if (isOpen && this.node.querySelector("details")) this.node.querySelector("details").open = true;
    if (isFocused) this.node.querySelector(isFocused)?.focus();
    this.node.scrollTop = scrollTop;
  }
}

function facts(it) {
  const place = [it.locality?.region, it.locality?.zone, it.locality?.sub_zone].filter(Boolean).join(" / ");
  const parts = [
    pairs(
      ["address", el("code", { text: `${it.host}:${it.port}` })],
      ["status", it.status ?? "ACTIVE"],
      ["health", it.health ?? "UNKNOWN"],
      ["weight", `${it.weight ?? 100}`],
      ["version", it.version],
      ["place", place],
      ["lease", it.ttl && `ends ${it.ttl} after its last renewal`],
      ["registered", it.registered_at && when(it.registered_at)],
      ["by", it.registered_by],
      ["taken from", it.origin],
      ["leaves", it.leaves_at && when(it.leaves_at)],
      ["generation", it.generation],
      ["revision", it.revision],
      ["tags", (it.tags ?? []).join(", ")],
    ),
  ];
  const metadata = Object.entries(it.metadata ?? {});
  if (metadata.length) parts.push(el("h3", { text: "metadata" }), pairs(...metadata));
  if (it.check_results?.length) parts.push(el("h3", { text: "checks" }), checks(it.check_results));
  return parts;
}

function checks(results) {
  const line = (it) => el("li", {}, el("span", { className: "state", data: { state: (it.health ?? "UNKNOWN").toLowerCase() }, text: it.name }), ` ${it.output ?? ""} `, el("small", { text: it.checked_at ? when(it.checked_at) : "" }));
  return el("ul", { className: "events" }, results.map(line));
}

/** What decides whether it gets traffic, in the order in which it decides. */
function why({ verdict, traffic, reasons }) {
  const state = { passes: "healthy", stops: "critical", warns: "unhealthy" };
  const line = ([about, effect, text]) => el("li", {}, el("span", { className: "state", data: { state: state[effect] ?? "" }, text: about }), ` ${text}`);
  const more = reasons.length ? el("details", {}, el("summary", { text: "what decides it" }), el("ul", { className: "events" }, reasons.map(line))) : null;
  return [el("p", { className: traffic ? "verdict" : "verdict wrong", text: verdict }), more].filter(Boolean);
}

function history(events, row) {
  if (!events?.length) return [];
  const now = server.now();
  const begins = Math.min(events.at(-1).at, row?.registered || Infinity);
  const line = (it) => el("li", {}, el("time", { datetime: new Date(it.at).toISOString(), title: new Date(it.at).toLocaleString("en-GB"), text: clock(it.at) }), el("strong", { text: it.cause }), it.by ? ` by ${it.by}` : "", it.said ? `: ${it.said}` : "", it.late ? " (maybe earlier)" : "");
  return [
    el("h3", { text: "its life" }),
    life(spells(events, now), events.map((it) => [it.at, `${clock(it.at)} ${it.cause}`]), begins, now),
    el("ul", { className: "events" }, events.map(line)),
  ];
}

export const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");
const when = (text) => new Date(text).toLocaleString("en-GB");
