// The page: what is shown, where, and by which keys. See model.js for what is known, live.js for how it comes.

import { $, el, say } from "./dom.js";
import { clock } from "./clock.js";
import { Connected } from "./connected.js";
import { History } from "./history.js";
import { Live, ask } from "./live.js";
import { number, rate, span } from "./model.js";
import { spark } from "./pictures.js";
import { Server } from "./server.js";
import { Services } from "./services.js";

const TABS = ["services", "history", "connected", "server"];
const THEMES = ["system", "light", "dark"];
const SEARCH_MS = 150;
const KEPT = 120;

class App {
  constructor() {
    this.numbers = null;
    this.rates = { changes: [], messages: [], calls: [] };
    this.live = new Live((event, data) => this.told(event, data), (state, why) => this.linked(state, why));
    this.tabs = {
      services: new Services((service, id) => this.go(service, id)),
      history: new History((service, id) => this.go(service, id)),
      connected: new Connected(),
      server: new Server(),
    };
    this.keys();
    this.search();
    this.login();
    this.themes();
    window.addEventListener("hashchange", () => this.route());
    setInterval(() => this.tick(), 1_000);
    this.me();
    this.route();
  }

  // ---- where one is

  go(service, id) {
    const parts = ["services", ...(service ? [service.namespace, service.name] : []), ...(id ? [id] : [])];
    location.hash = `/${parts.map(encodeURIComponent).join("/")}`;
  }

  route() {
    const [tab, ...names] = location.hash.replace(/^#\/?/, "").split("/").filter(Boolean).map(decoded);
    const name = TABS.includes(tab) ? tab : "services";
    if (this.tab !== name) this.open(name);
    const [namespace, service, id] = names;
    const looksAt = name === "services" && service ? { namespace, name: service } : null;
    const is = (it) => it && `${it.namespace}/${it.name}`;
    const events = name === "history" ? () => this.tabs.history.latest : null;
    if (this.live.events === undefined || is(looksAt) !== is(this.live.service) || Boolean(events) !== Boolean(this.live.events)) {
      this.tabs.services.look(looksAt);
      this.live.look(looksAt, events);
    }
    this.tabs.services.choose(id ?? null);
  }

  open(name) {
    this.tabs[this.tab]?.hide?.();
    this.tab = name;
    for (const it of TABS) {
      $(`tab-${it}`).setAttribute("aria-selected", it === name);
      $(`tab-${it}`).tabIndex = it === name ? 0 : -1;
    }
    $("panel").setAttribute("aria-labelledby", `tab-${name}`);
    $("panel").replaceChildren(...this.tabs[name].nodes);
    this.tabs[name].open?.(this.numbers);
  }

  // ---- what is told

  told(event, data) {
    if (event === "server") this.server(data);
    else this.tabs[event === "history" ? "history" : "services"].told(event, data);
  }

  server(it) {
    this.compare(it);
    const isAnother = this.numbers && this.numbers.identity !== it.identity;
    this.numbers = it;
    clock.told(it.at);
    this.tabs.services.listens(it.listens);
    if (isAnother && this.tab === "history") this.tabs.history.open(); // one may see other events
    const { size, pushes, store } = it;
    const tiles = [
      size && ["services", number(size.services)],
      size && ["instances", number(size.instances)],
      size && ["leases", number(size.leases)],
      pushes && ["streams", number(pushes.streams)],
      pushes && ["changes / s", rate(this.rates.changes.at(-1)), this.rates.changes],
      pushes && ["calls / s", rate(this.rates.calls.at(-1)), this.rates.calls],
      pushes && ["messages pushed / s", rate(this.rates.messages.at(-1)), this.rates.messages],
      ["revision", number(it.revision)],
      [`store ${store.kind}`, store.away === null ? "reached" : `away ${span(store.away * 1000)}`],
    ].filter(Boolean);
    $("numbers").replaceChildren(...tiles.map(([name, value, line]) => el("div", { className: line ? "wide" : "" }, el("dt", { text: name }), el("dd", { text: value }), line ? spark(line) : null)));
    this.alarm(it);
    this.tabs.server.told(it);
  }

  compare(it) {
    const before = this.numbers;
    if (!before || before.began !== it.began || !before.pushes || !it.pushes) return;
    const seconds = (it.at - before.at) / 1000;
    if (seconds < 0.5) return;
    for (const [name, values] of Object.entries(this.rates)) {
      values.push(Math.max(0, (it.pushes[name] - before.pushes[name]) / seconds));
      if (values.length > KEPT) values.shift();
    }
  }

  alarm({ store, commits, serving }) {
    const said = [];
    if (store.away !== null) said.push(`The store cannot be reached for ${span(store.away * 1000)}: what is shown is as it was then, and goes on being served.`);
    if (commits?.waiting) said.push(`Held, since nobody could renew while the store was ill: ${number(commits.waiting)}, with as much time as their leases give to come back.`);
    if (commits?.flaws) said.push(`Records of the store that are no instances, and are skipped: ${number(commits.flaws)} (see the log).`);
    if (!serving) said.push("This server is stopping.");
    $("alarm").hidden = !said.length;
    if ($("alarm").textContent !== said.join(" ")) $("alarm").textContent = said.join(" ");
  }

  tick() {
    this.tabs.services.tick();
    if (this.tab !== "services") this.tabs[this.tab].tick?.();
  }

  linked(state, why) {
    const said = { connecting: "connecting …", live: "live", lost: "no answer; trying again", refused: "logged out", denied: "may see nothing" };
    if ($("link").dataset.state === state && !why) return;
    $("link").dataset.state = state === "live" ? "live" : "lost";
    $("link").textContent = said[state];
    if (state === "lost" && this.numbers) this.lost(`This server does not answer any more: what is shown is as of ${new Date(this.numbers.at).toLocaleTimeString()}.`);
    if (state === "refused") $("alarm").hidden = true;
    if (state === "refused") this.askWho();
    if (state === "live" && this.isLoggedOut) $("login").close(); // one has logged in again in another tab
    this.isLoggedOut = state === "refused" || (this.isLoggedOut && state !== "live");
    if (state === "denied") this.refuse(why);
    if (state === "live") this.me();
  }

  lost(why) {
    $("alarm").hidden = false;
    $("alarm").textContent = why.trim();
  }

  refuse(why) {
    this.lost(why);
    $("leave").hidden = false;
  }

  // ---- who one is

  async me() {
    try {
      const { identity, grants, access } = await ask("me");
      $("who").textContent = identity || (access ? "nobody in particular" : "");
      $("who").title = grants.join("\n");
      $("leave").hidden = !access;
      $("leave").textContent = identity ? "log out" : "log in";
    } catch (error) {
      if (error.status === 401) this.askWho();
    }
  }

  askWho() {
    if ($("login").open) return;
    $("login-why").textContent = "";
    $("login").showModal();
    $("token").focus();
  }

  login() {
    $("login-form").addEventListener("submit", async (event) => {
      event.preventDefault();
      try {
        await ask("login", posted({ token: $("token").value }));
        $("login").close();
        $("alarm").hidden = true;
        await this.me();
        this.live.open();
      } catch (error) {
        $("login-why").textContent = error.message;
      }
      $("token").value = "";
    });
    $("leave").addEventListener("click", async () => {
      if ($("leave").textContent === "log in") return this.askWho();
      this.live.close();
      await ask("logout", posted({})).catch(() => {});
      location.reload();
    });
  }

  // ---- search

  search() {
    const field = $("search");
    field.addEventListener("input", () => {
      clearTimeout(this.searching);
      this.tabs.services.filter(field.value);
      this.searching = setTimeout(() => this.find(field.value), SEARCH_MS);
    });
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.found(null, field);
      if (event.key === "ArrowDown" || event.key === "Enter") {
        const first = $("found").querySelector("a");
        if (first && event.key === "Enter") first.click();
        else first?.focus();
        event.preventDefault();
      }
    });
    $("found").addEventListener("keydown", (event) => {
      const to = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
      if (to) {
        (document.activeElement[to] ?? field).focus();
        event.preventDefault();
      }
      if (event.key === "Escape") this.found(null, field);
    });
    $("found").addEventListener("click", () => this.found(null, field));
  }

  async find(text) {
    if (!text.trim()) return this.found(null);
    try {
      const { found, more } = await ask(`search?${new URLSearchParams({ q: text })}`);
      if ($("search").value === text) this.found(found, null, more);
    } catch (error) {
      if (error.status !== 401) say(error.message);
    }
  }

  found(rows, field, more) {
    $("found").hidden = !rows;
    if (!rows) {
      $("found").replaceChildren();
      if (field) {
        field.value = "";
        this.tabs.services.filter("");
        field.focus();
      }
      return;
    }
    const links = rows.map(([namespace, service, id, where]) => el("a", { href: `#/services/${[namespace, service, id].map(encodeURIComponent).join("/")}` }, el("strong", { text: id }), ` ${namespace}/${service} `, where === "id" ? "" : el("small", { text: where })));
    const note = rows.length ? (more ? `the first ${rows.length}` : `${rows.length} found`) : "no instance has that";
    $("found").replaceChildren(...links, el("p", { className: "note", text: note }));
    say(note);
  }

  // ---- keys and looks

  keys() {
    const tabs = document.querySelector("[role=tablist]");
    tabs.addEventListener("click", (event) => this.press(event.target.dataset.tab));
    tabs.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!by) return;
      this.press(TABS[(TABS.indexOf(this.tab) + by + TABS.length) % TABS.length]);
      $(`tab-${this.tab}`).focus();
      event.preventDefault();
    });
    $("keys").addEventListener("click", () => $("help").showModal());
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey || document.querySelector("dialog[open]")) return;
      if (event.target.matches("input")) return;
      this.shortcut(event);
    });
  }

  shortcut(event) {
    const { key } = event;
    if (key === "/") $("search").focus();
    else if (key === "?") $("help").showModal();
    else if (key === "t") $("theme").click();
    else if (key === "Escape" && this.tab === "services") this.tabs.services.back();
    else if (TABS[key - 1]) this.press(TABS[key - 1]);
    else return;
    event.preventDefault();
  }

  press(tab) {
    if (!tab) return;
    if (tab === "services") location.hash = this.last ?? "/services";
    else {
      if (this.tab === "services") this.last = location.hash.slice(1);
      location.hash = `/${tab}`;
    }
    this.route();
  }

  themes() {
    const set = (theme) => {
      if (theme === "system") delete document.documentElement.dataset.theme;
      else document.documentElement.dataset.theme = theme;
      $("theme").textContent = `theme: ${theme}`;
      this.tabs.services.recolour();
    };
    let theme = kept("theme") ?? "system";
    set(THEMES.includes(theme) ? theme : "system");
    $("theme").addEventListener("click", () => {
      theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
      keep("theme", theme);
      set(theme);
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.tabs.services.recolour());
  }
}

const posted = (body) => ({ method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function kept(name) {
  try {
    return localStorage.getItem(`grpc-registry.${name}`);
  } catch {
    return null;
  }
}

function keep(name, value) {
  try {
    localStorage.setItem(`grpc-registry.${name}`, value);
  } catch {
    // a browser that keeps nothing
  }
}

new App();
