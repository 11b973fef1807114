// Who is connected: streams that are open, and xDS clients.

import { clock } from "./clock.js";
import { el } from "./dom.js";
import { List, cells } from "./list.js";
import { ask } from "./live.js";
import { number, span } from "./model.js";

const AGAIN_MS = 2_000;

export class Connected {
  constructor() {
    this.note = el("p", { className: "note", text: "…" });
    this.streams = new List({ label: "Streams", height: 30, fill: (row, it) => this.fillStream(row, it) });
    this.clients = new List({ label: "xDS clients", height: 30, fill: (row, it) => this.fillClient(row, it) });
    this.xds = el("p", { className: "note" });
    this.nodes = [
      el("section", { className: "card wide-card of-streams", aria: { label: "Streams" } }, el("div", { className: "bar" }, el("h2", { text: "Streams" }), this.note), heads("method", "from", "who", "of what", "told", "for"), this.streams.node),
      el("section", { className: "card wide-card of-xds", aria: { label: "xDS clients" } }, el("div", { className: "bar" }, el("h2", { text: "xDS clients" }), this.xds), heads("node", "kind", "who", "of what", "for"), this.clients.node),
    ];
  }

  open() {
    this.isOpen = true;
    this.ask();
  }

  hide() {
    this.isOpen = false;
    clearTimeout(this.asking);
  }

  async ask() {
    clearTimeout(this.asking);
    if (!document.hidden) await this.once();
    if (this.isOpen) this.asking = setTimeout(() => this.ask(), AGAIN_MS);
  }

  async once() {
    try {
      this.told(await ask("connected"));
    } catch (error) {
      this.note.textContent = error.message;
      this.streams.show([]);
      this.clients.show([]);
    }
  }

  told({ streams, count, methods, xds }) {
    this.now = clock.now();
    const rows = streams.map(([method, peer, who, at, wanted, told]) => ({ id: `${method} ${peer} ${at} ${wanted}`, method, peer, who, at, wanted, told }));
    const shown = Object.entries(methods).map(([method, it]) => `${number(it)} ${method}`);
    this.note.textContent = `${shown.join(", ") || "none"}${count > streams.length ? `; the oldest ${number(streams.length)} are shown` : ""}`;
    this.streams.show(rows);
    this.xds.textContent = xds.length ? number(xds.length) : "none";
    this.clients.show(xds.map(client));
  }

  fillStream(row, it) {
    row.dataset.state = it.told === "behind" ? "unhealthy" : "";
    cells(row, [it.method, it.peer, it.who, it.wanted, it.told, span(this.now - it.at)], ["", "", "", "", "", "number"]);
  }

  fillClient(row, it) {
    row.dataset.state = it.isRejected ? "critical" : "healthy";
    cells(row, [it.node, it.kind, it.who, it.wanted, span(this.now - it.at)], ["name", "", "", it.isRejected ? "state" : "", "number"]);
  }
}

function heads(...names) {
  return el("div", { className: "heads", role: "row" }, names.map((text) => el("span", { role: "columnheader", text })));
}

function client(it) {
  const streams = it.streams ?? [];
  const subscriptions = streams.flatMap((stream) => stream.subscriptions ?? []);
  const rejected = subscriptions.find((one) => one.rejection);
  const asked = subscriptions.map((one) => `${one.type.toLowerCase()} ${one.wildcard ? "*" : (one.names ?? []).join(" ")}${one.pending ? " (not answered yet)" : ""}`);
  return {
    id: `${it.node_id} ${it.identity ?? ""} ${it.kind}`,
    node: it.node_id ?? "",
    kind: `${it.kind ?? ""} ${it.user_agent_version ?? ""}`,
    who: it.identity ?? "",
    wanted: rejected ? `rejected: ${rejected.rejection.reason}` : asked.join(", "),
    isRejected: Boolean(rejected),
    at: Math.min(...streams.map((stream) => Date.parse(stream.opened_at))),
  };
}
