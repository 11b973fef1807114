// The one stream that tells an open page what changes. It is closed while nobody sees the page.

import { clock } from "./clock.js";

const SILENT_MS = 8_000;
const AGAIN_MS = 1_000;
const ANSWER_MS = 10_000;

export class Live {
  /** `told(event, data)` for each message; `state(name, why)`: connecting, live, lost, refused. */
  constructor(told, state) {
    this.told = told;
    this.state = state;
    this.service = null;
    this.source = null;
    this.heardAt = 0;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.close() : this.open()));
    window.addEventListener("pagehide", () => this.close());
    setInterval(() => this.watch(), 1_000);
  }

  /** Look at the instances of this service, or at none; and at what happens, or not: `events` gives the number of the
   * latest event that is known, so that none is missed that came while nobody was told. */
  look(service, events) {
    this.service = service;
    this.events = events;
    this.open();
  }

  open() {
    this.close();
    if (document.hidden) return;
    const query = new URLSearchParams(this.service ? { namespace: this.service.namespace, service: this.service.name } : {});
    if (this.events) query.set("events", this.events());
    const source = new EventSource(`api/live?${query}`);
    this.source = source;
    this.heardAt = performance.now();
    for (const event of ["server", "services", "instances", "history"]) {
      source.addEventListener(event, (message) => {
        if (this.source !== source) return;
        this.heardAt = performance.now();
        this.state("live");
        this.told(event, JSON.parse(message.data));
      });
    }
    source.addEventListener("error", () => {
      if (this.source === source) this.lost();
    });
  }

  close() {
    clearTimeout(this.again);
    this.source?.close();
    this.source = null;
  }

  /** A connection may be dead and say nothing: the server tells something every two seconds. */
  watch() {
    if (this.source && performance.now() - this.heardAt > SILENT_MS) this.lost();
  }

  async lost() {
    this.close();
    this.state("lost");
    const why = await refusal();
    if (why) this.state(why.state, why.text);
    if (why?.state !== "refused" && !this.source) this.again = setTimeout(() => this.open(), AGAIN_MS);
  }
}

/** Why the stream ended: whether it is that one has to log in, which a stream does not say. */
async function refusal() {
  try {
    const response = await fetch("api/me", { signal: AbortSignal.timeout(ANSWER_MS) });
    if (response.status === 401) return { state: "refused", text: await response.text() };
    if (response.status === 403) return { state: "denied", text: await response.text() };
    return response.ok ? null : { state: "lost", text: await response.text() };
  } catch {
    return null;
  }
}

/** What the server answers; raises an Error with its words, and the status as `status`. */
export async function ask(path, options) {
  const response = await fetch(`api/${path}`, { signal: AbortSignal.timeout(ANSWER_MS), ...options });
  clock.hinted(response.headers.get("Date"));
  if (!response.ok) throw Object.assign(new Error((await response.text()).trim() || response.statusText), { status: response.status });
  return response.status === 204 ? null : response.json();
}
