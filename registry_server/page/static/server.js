// This server, and its store.

import { el, pairs } from "./dom.js";
import { number, span } from "./model.js";

export class Server {
  constructor() {
    this.own = el("div", {});
    this.store = el("div", {});
    this.pushes = el("div", {});
    const card = (name, node) => el("section", { className: "card wide-card", aria: { label: name } }, el("h2", { text: name }), node);
    this.nodes = [card("This server", this.own), card("Its store", this.store), card("Who is told", this.pushes)];
  }

  open(numbers) {
    if (numbers) this.told(numbers);
  }

  told({ at, began, identity, serving, listens, epoch, revision, store, commits, pushes }) {
    this.own.replaceChildren(
      pairs(
        ["serves", serving ? "yes" : "no: it is stopping"],
        ["runs for", span(at - began)],
        ["epoch", el("code", { text: epoch })],
        ["revision", number(revision)],
        ["you are", identity],
        ["listens on", listens.replaceAll(",", ", ")],
        ["numbers", el("a", { href: "metrics", text: "/metrics" })],
      ),
    );
    const state = store.away === null ? ["healthy", "reached"] : ["critical", `away for ${span(store.away * 1000)}`];
    this.store.replaceChildren(
      pairs(
        ["kind", store.kind],
        ["is", el("span", { className: "state", data: { state: state[0] }, text: state[1] })],
        ...(commits ? done(commits) : []),
      ),
    );
    this.nodes[2].hidden = !pushes;
    if (!pushes) return;
    this.pushes.replaceChildren(
      pairs(
        ["streams", number(pushes.streams)],
        ["readers", number(pushes.readers)],
        ["not done with what they were sent", number(pushes.behind)],
        ["messages", number(pushes.messages)],
        ["sent", `${(pushes.bytes / 1e6).toFixed(1)} MB`],
        ["changes", number(pushes.changes)],
        ["calls", number(pushes.calls)],
      ),
    );
  }
}

function done({ count, failed, held, waiting, flaws, commit_s }) {
  return [
    ["commits", number(count)],
    ["took", count ? `${((commit_s / count) * 1000).toFixed(2)} ms each` : ""],
    ["not reached, or failed", number(failed)],
    ["renewals held", number(held)],
    ["instances held", number(waiting)],
    ["records skipped", number(flaws)],
  ];
}
