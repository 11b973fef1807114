// What the page knows: no document, no network, no clock. Rows come as registry_server/page/shown.py makes them.

/** How long what has left is shown, grey, and how many of these. */
export const GONE_MS = 5 * 60_000;
export const MAX_GONE = 500;

/** States of an instance, from the worst: a name, and what it is called. */
export const STATES = [
  ["critical", "critical"],
  ["unhealthy", "unhealthy"],
  ["held", "held by the guard"],
  ["draining", "draining"],
  ["idle", "takes no traffic"],
  ["unknown", "routable, no checks"],
  ["healthy", "healthy"],
  ["gone", "gone"],
];
const RANK = new Map(STATES.map(([name], place) => [name, place]));

const REASONS = {
  expired: "its lease ran out: nobody renewed it",
  deregistered: "deregistered",
  replaced: "another instance took its address",
  drained: "its drain is over",
  unhealthy: "its checks failed for too long",
};

export const reason = (cause, said) => [REASONS[cause] ?? (cause || "gone"), said].filter(Boolean).join(": ");

export function instance(row) {
  const [id, host, port, status, health, weight, version, zone, registered, leaves, by, origin, output, isHeld] = row;
  const address = host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
  const it = { id, address, status, health, weight, version, zone, registered, leaves, by, origin, output, isHeld, gone: null };
  it.state = stateOf(it);
  it.text = told(it);
  return it;
}

/** The same, gone: what the page shows of it until it is forgotten. */
export function departed(it, cause, said, at) {
  const gone = { ...it, gone: { cause, said, at }, state: "gone" };
  gone.text = told(gone);
  return gone;
}

function stateOf(it) {
  if (it.isHeld) return "held";
  if (it.health === "critical" || it.health === "unhealthy") return it.health;
  if (it.status === "draining") return "draining";
  if (it.status !== "active" || it.weight === 0) return "idle";
  return it.health === "healthy" ? "healthy" : "unknown";
}

/** One line about an instance. */
function told(it) {
  if (it.gone) return reason(it.gone.cause, it.gone.said);
  if (it.isHeld) return "held: its lease ran out while the store was ill";
  if (it.output) return it.output;
  if (it.status === "down") return "down";
  if (it.state === "idle") return "weight 0";
  return it.state === "unknown" ? "routable" : it.state;
}

export function service(row) {
  const [namespace, name, instances, routable, healthy, unhealthy, critical, draining] = row;
  const it = { namespace, name, instances, routable, healthy, unhealthy, critical, draining, gone: null };
  it.id = `${namespace}/${name}`;
  it.state = routable === instances ? "healthy" : routable ? "unhealthy" : "critical";
  return it;
}

export const parts = (it) => {
  const unwell = it.unhealthy + it.critical;
  const rest = Math.max(0, it.instances - it.routable - unwell);
  const healthy = Math.min(it.healthy, it.routable);
  return [["healthy", healthy], ["unknown", it.routable - healthy], ["idle", rest], ["unhealthy", it.unhealthy], ["critical", it.critical]];
};

/** By which instances may be put in order. Ties are by id, so an order is always one. */
export const ORDERS = {
  id: (a, b) => compare(a.id, b.id),
  address: (a, b) => compare(a.address, b.address),
  state: (a, b) => RANK.get(a.state) - RANK.get(b.state),
  weight: (a, b) => a.weight - b.weight,
  version: (a, b) => compare(a.version, b.version),
  zone: (a, b) => compare(a.zone, b.zone),
  age: (a, b) => b.registered - a.registered,
};

export const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);

/** Items by their ids, those that have left among them for a while, and what a message says is folded in. */
export class Items {
  constructor(made, idOf) {
    this.made = made;
    this.idOf = idOf;
    this.all = new Map();
    this.gone = new Map();
    this.isWhole = false;
    this.seen = null;
  }

  get count() {
    return this.all.size - this.gone.size;
  }

  /** Take in a message; gives pairs of what was and what is, each of which may be undefined. */
  fold(message, now) {
    const changes = [];
    if (message.begins) this.seen = new Set();
    for (const row of message.set ?? []) {
      const it = this.made(row);
      this.seen?.add(it.id);
      this.gone.delete(it.id);
      changes.push([this.all.get(it.id), it]);
      this.all.set(it.id, it);
    }
    for (const row of message.gone ?? []) this.leave(this.idOf(row), row.at(-2), row.at(-1), now, changes);
    for (const row of message.left ?? []) this.leftBefore(row, changes);
    if (message.ends && this.seen) {
      for (const id of this.all.keys()) if (!this.seen.has(id) && !this.gone.has(id)) this.leave(id, "", "", now, changes);
      this.seen = null;
      this.isWhole = true;
    }
    return changes;
  }

  /** One that had left before the page was opened. */
  leftBefore(row, changes) {
    const it = this.made(row);
    const before = this.all.get(it.id);
    const [cause, said, at] = row.slice(-3);
    if (before) return;
    const after = departed(it, cause, said, at);
    this.all.set(it.id, after);
    this.gone.set(it.id, at);
    changes.push([undefined, after]);
  }

  leave(id, cause, said, now, changes) {
    const before = this.all.get(id);
    if (before === undefined || before.gone) return;
    const after = departed(before, cause, said, now);
    this.all.set(id, after);
    this.gone.set(id, now);
    changes.push([before, after]);
    if (this.gone.size > MAX_GONE) this.forget(this.gone.keys().next().value, changes);
  }

  /** Forget what left long ago; gives what that changes. */
  tidy(now) {
    const changes = [];
    for (const [id, at] of this.gone) {
      if (now - at < GONE_MS) break;
      this.forget(id, changes);
    }
    return changes;
  }

  forget(id, changes) {
    changes.push([this.all.get(id), undefined]);
    this.all.delete(id);
    this.gone.delete(id);
  }
}

/** Some of the items in an order, kept up: what a list shows. */
export class View {
  constructor(order, keep = () => true) {
    this.items = [];
    this.by(order, keep);
  }

  by(order, keep = this.keep) {
    this.order = (a, b) => order(a, b) || compare(a.id, b.id);
    this.keep = keep;
  }

  rebuild(all) {
    this.items = [...all].filter(this.keep).sort(this.order);
  }

  /** Few changes are put in their places; of many, all is put in order anew. */
  change(changes, all) {
    if (changes.length > 64 + this.items.length / 50) return this.rebuild(all);
    for (const [before, after] of changes) {
      if (before) this.take(before);
      if (after && this.keep(after)) this.items.splice(this.place(after), 0, after);
    }
  }

  take(it) {
    const place = this.place(it);
    if (this.items[place]?.id === it.id) this.items.splice(place, 1);
  }

  place(it) {
    let low = 0;
    let high = this.items.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.order(this.items[middle], it) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** How much of the traffic goes where, by weights, the largest first and the rest as one. */
export function shares(items, of, most = 5) {
  const sums = new Map();
  let total = 0;
  for (const it of items) {
    if (it.gone || !(it.state === "healthy" || it.state === "unknown")) continue;
    total += it.weight;
    sums.set(it[of] || "–", (sums.get(it[of] || "–") ?? 0) + it.weight);
  }
  const sorted = [...sums].sort((a, b) => b[1] - a[1]);
  const rest = sorted.slice(most).reduce((sum, [, weight]) => sum + weight, 0);
  const shown = sorted.slice(0, most);
  if (rest) shown.push([`${sorted.length - most} others`, rest]);
  return shown.map(([name, weight]) => [name, weight / total]);
}

export const number = (it) => (it ?? 0).toLocaleString("en");

export function rate(it) {
  if (!(it >= 0)) return "–";
  if (it >= 10_000) return `${(it / 1000).toFixed(0)}k`;
  return it >= 100 || it === 0 ? it.toFixed(0) : it.toFixed(1);
}

/** How long, in two letters or so. */
export function span(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 100) return `${s} s`;
  if (s < 6000) return `${Math.round(s / 60)} min`;
  if (s < 48 * 3600) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} d`;
}

/** Something that happened to an instance. */
export function happening(row) {
  const [number, at, late, namespace, service, id, cause, by, said, revision, status, health, weight] = row;
  const has = status !== undefined;
  const state = has ? stateOf({ status, health, weight }) : "gone";
  return { id: number, at, late, namespace, service, instance: id, name: `${namespace}/${service}/${id}`, cause: CAUSES[cause] ?? cause, by, said, revision, state };
}

const CAUSES = { "": "gone", taken_over: "taken over", health: "health", ruled: "other checks", foreign: "changed in the store" };

/** The states between events of one instance (the latest first), as `[state, from, to]`. */
export function spells(events, now) {
  const found = [];
  let ends = now;
  for (const it of events) {
    const next = found.at(-1);
    if (it.state === "gone") ends = it.at;
    else if (next && next[0] === it.state && next[1] === ends) next[1] = it.at;
    else found.push([it.state, it.at, ends]);
    ends = it.at;
  }
  return found.reverse();
}
