// What happened, the latest first, and further back as one scrolls.

import { el } from "./dom.js";

export class History {
  constructor(go) {
    this.go = go;
    this.nodes = [el("section", { className: "card wide-card" }, el("p", { className: "empty", text: "…" }))];
  }

  told() {}
}
