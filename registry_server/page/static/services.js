// Services on the left, the instances of one in the middle, one of these on the right.

import { clock } from "./clock.js";
import { Detail } from "./detail.js";
import { el, say } from "./dom.js";
import { List, cells } from "./list.js";
import { Items, ORDERS, View, compare, instance, number, parts, reason, service, span } from "./model.js";
import { Mosaic, bar, legend, shared, weight } from "./pictures.js";

const HEADS = [["id", "instance"], ["address", "address"], ["state", "how it is"], ["weight", "weight"], ["version", "version"], ["zone", "zone"], ["age", "for"]];
const PICTURES_MS = 400;
const ARRIVING_MS = 250;

export class Services {
  constructor(go) {
    this.go = go;
    this.service = null;
    this.chosen = null;
    this.services = new Items(service, (row) => `${row[0]}/${row[1]}`);
    this.shown = new View((a, b) => compare(a.id, b.id));
    this.order = { by: "id", isDown: false };
    this.most = 0;
    this.detail = new Detail(() => this.go(this.service, null));
    this.mosaic = new Mosaic((it) => this.go(this.service, it.id));
    this.build();
    this.forget();
  }

  build() {
    this.list = new List({ label: "Services", height: 34, fill: (row, it) => this.fillService(row, it), opened: (it) => this.go(it, null) });
    this.rows = new List({ label: "Instances", height: 30, fill: (row, it) => this.fillInstance(row, it), opened: (it) => this.go(this.service, it.id) });
    this.countOf = el("p", { className: "note" });
    const left = el("section", { className: "card services of-services", aria: { label: "Services" } }, el("div", { className: "bar" }, el("h2", { text: "Services" }), this.countOf), this.list.node);
    this.middle = el("section", { className: "card instances of-instances", aria: { label: "Instances" } });
    this.title = el("h2", {});
    this.legend = el("div", {});
    this.shares = el("div", { className: "pictures" });
    this.heads = el("div", { className: "heads", role: "row" }, HEADS.map(([by, name]) => this.head(by, name)));
    this.nodes = [left, this.middle, this.detail.node];
  }

  head(by, name) {
    return el("span", { role: "columnheader", data: { by } }, el("button", { type: "button", text: name, on: { click: () => this.sort(by) } }));
  }

  forget() {
    this.instances = new Items(instance, (row) => row[0]);
    this.view = new View(ORDERS[this.order.by], this.fits());
    this.isPictured = true;
  }

  // ---- what one looks at

  look(to) {
    this.service = to;
    this.refused = "";
    this.forget();
    this.list.choose(to && `${to.namespace}/${to.name}`);
    this.arrange();
    this.show();
  }

  choose(id) {
    if (id !== this.chosen) {
      this.chosen = id;
      this.rows.choose(id);
      this.rows.reveal();
    }
    this.tell();
  }

  back() {
    if (this.chosen) this.go(this.service, null);
    else if (this.service) this.go(null, null);
    (this.chosen ? this.rows : this.list).node.focus();
  }

  /** Where the registry does, as its server says it. */
  listens(addresses) {
    if (addresses === this.addresses) return;
    this.addresses = addresses;
    if (!this.service) this.show();
  }

  filter(text) {
    this.asked = text.trim().toLowerCase();
    const names = [...this.services.all.keys()].filter((it) => it.toLowerCase().includes(this.asked));
    this.shown.by(this.shown.order, (it) => !names.length || it.id.toLowerCase().includes(this.asked));
    this.shown.rebuild(this.services.all.values());
    this.list.show(this.shown.items);
    this.view.by(this.ordering(), this.fits());
    this.view.rebuild(this.instances.all.values());
    this.rows.show(this.view.items);
  }

  /** Search narrows services by name; instances too, unless none of them has it. */
  fits() {
    const asked = this.asked;
    if (!asked || !this.service) return () => true;
    const name = `${this.service.namespace}/${this.service.name}`.toLowerCase();
    return (it) => name.includes(asked) || `${it.id} ${it.address} ${it.version} ${it.zone} ${it.state}`.toLowerCase().includes(asked);
  }

  sort(by) {
    this.order = { by, isDown: this.order.by === by && !this.order.isDown };
    this.view.by(this.ordering(), this.fits());
    this.view.rebuild(this.instances.all.values());
    this.arrange();
    this.rows.show(this.view.items);
  }

  ordering() {
    const order = ORDERS[this.order.by];
    return this.order.isDown ? (a, b) => order(b, a) : order;
  }

  arrange() {
    for (const head of this.heads.children) {
      head.setAttribute("aria-sort", head.dataset.by !== this.order.by ? "none" : this.order.isDown ? "descending" : "ascending");
    }
    this.view.by(this.ordering(), this.fits());
  }

  // ---- what is told

  told(event, message) {
    const now = clock.now();
    if (event === "services") this.toldServices(this.services.fold(message, now));
    else this.toldInstances(this.instances.fold(message, now), message);
  }

  toldServices(changes) {
    this.shown.change(changes, this.services.all.values());
    this.list.show(this.shown.items);
    const count = this.services.count;
    this.countOf.textContent = this.services.isWhole ? number(count) : "…";
    if (!this.service) this.show();
  }

  toldInstances(changes, message) {
    for (const [, after] of changes) if (after && after.weight > this.most) this.most = after.weight;
    if (this.instances.seen) return this.arriving(message);
    if (message.ends) this.view.rebuild(this.instances.all.values());
    else this.view.change(changes, this.instances.all.values());
    this.rows.show(this.view.items);
    this.picture();
    if (message.ends || (changes.length && this.middle.querySelector(".empty"))) this.show();
    if (message.ends && this.chosen) requestAnimationFrame(() => this.rows.reveal());
    if (changes.some(([before, after]) => (before ?? after).id === this.chosen) || message.ends) this.tell();
    this.announce(changes);
  }

  /** All of them come in many messages: what is there by then is put in order now and then, and not for each of these. */
  arriving(message) {
    if (message.refused) this.refused = message.refused;
    if (message.begins) this.show();
    if (this.isArriving) return;
    this.isArriving = true;
    setTimeout(() => {
      this.isArriving = false;
      if (!this.instances.seen) return;
      this.view.rebuild(this.instances.all.values());
      this.rows.show(this.view.items);
    }, ARRIVING_MS);
  }

  announce(changes) {
    const left = changes.filter(([before, after]) => before && after?.gone).map(([, after]) => after);
    if (left.length && left.length < 4) say(left.map((it) => `${it.id} left: ${it.text}`).join("; "));
    else if (left.length) say(`${left.length} instances left`);
  }

  /** Where time shows: what left long ago is forgotten, ages go on. */
  tick() {
    const now = clock.now();
    const services = this.services.tidy(now);
    if (services.length) this.toldServices(services);
    const instances = this.instances.tidy(now);
    if (instances.length) this.toldInstances(instances, {});
    this.rows.refresh();
  }

  // ---- what is shown

  show() {
    if (this.refused) {
      this.middle.replaceChildren(el("p", { className: "empty wrong", role: "alert", text: this.refused }));
    } else if (this.service) {
      this.title.textContent = `${this.service.namespace} / ${this.service.name}`;
      const isEmpty = this.instances.isWhole && !this.instances.all.size;
      const within = isEmpty ? [el("p", { className: "empty", text: "No instance of it is registered." })] : [this.pictures(), this.heads, this.rows.node];
      this.middle.replaceChildren(el("div", { className: "bar" }, this.title), ...within);
      this.rows.show(this.view.items);
      this.picture();
    } else {
      this.middle.replaceChildren(this.services.isWhole && !this.services.count ? nothing(this.addresses) : el("p", { className: "empty", text: "Choose a service to see its instances." }));
    }
  }

  pictures() {
    return el("div", {}, el("div", { className: "pictures" }, el("figure", {}, this.mosaic.canvas, this.legend)), this.shares);
  }

  recolour() {
    this.picture();
  }

  /** Soon, and not for every message: all instances are looked at. */
  picture() {
    if (!this.isPictured) return;
    this.isPictured = false;
    setTimeout(() => {
      this.isPictured = true;
      if (this.service) this.paint();
    }, this.instances.isWhole ? PICTURES_MS : 0);
  }

  paint() {
    const { items } = this.view;
    const counts = new Map();
    for (const it of items) counts.set(it.state, (counts.get(it.state) ?? 0) + 1);
    const said = [...counts].map(([state, count]) => `${count} ${state}`).join(", ");
    this.mosaic.draw(items, `${items.length} instances: ${said}`);
    this.legend.replaceChildren(legend(counts));
    this.shares.replaceChildren(shared(items, "version", "weight by version"), shared(items, "zone", "weight by zone"));
  }

  fillService(row, it) {
    row.dataset.state = it.state;
    const count = it.gone ? "gone" : number(it.instances);
    const words = `${it.routable} of ${it.instances} routable, ${it.unhealthy + it.critical} unwell, ${it.draining} draining`;
    const name = el("span", {}, el("small", { text: `${it.namespace}/` }), it.name);
    const picture = it.gone ? el("span", { text: reason(it.gone.cause, it.gone.said) }) : bar(parts(it), { width: 76, label: words });
    cells(row, [name, count, picture], ["name", "number", "state-bar"]);
    row.title = it.gone ? `${it.id}: ${reason(it.gone.cause, it.gone.said)}` : `${it.id}: ${words}`;
  }

  fillInstance(row, it) {
    row.dataset.state = it.state;
    const now = clock.now();
    const age = it.gone ? `${span(now - it.gone.at)} ago` : span(now - it.registered);
    const state = it.leaves && !it.gone ? `${it.text}, leaves in ${span(it.leaves - now)}` : it.text;
    cells(row, [it.id, it.address, state, weight(it.weight, this.most), it.version, it.zone, age], ["name", "", "state", "", "", "", "number"]);
  }

  tell() {
    const it = this.chosen && this.instances.all.get(this.chosen);
    this.detail.show(this.service, this.chosen, it, this.instances.isWhole);
  }
}

/** What begins with `0.0.0.0` or `[::]` is reached as the page was. */
function nothing(addresses = "") {
  const server = addresses.split(",")[0].replace(/^(0\.0\.0\.0|\[::\])(?=:)/, location.hostname);
  return el(
    "div",
    { className: "empty" },
    el("p", { text: "Nothing is registered yet. It shows up here as soon as it is." }),
    el("code", { text: `registryctl register player 10.0.0.5:8001 --server ${server}` }),
  );
}
