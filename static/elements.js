/**
 * <notify-bell>, <notify-inbox>, <notify-toasts>, <notify-preferences> and <notify-digest-settings>: what people see of
 * a hub (client.js).
 * How they are used: docs/elements.md; their types: elements.d.ts; the same for editors: custom-elements.json.
 * No dependency, no build step, safe to import anywhere. No markup is ever made of text, so that any content
 * security policy will do, one with trusted types too.
 */

import { createHub } from "./client.js";

// -- Words ------------------------------------------------------------------------------------------

/**
 * Every text, by language and key; where a number decides, by plural category. Other languages are fetched from
 * texts/ when they are wanted. To add one, or to have one before, add a member; to say something else in one place,
 * set the property `texts` of an element.
 */
export const texts = {
  en: {
    inbox: "Inbox", unread: { other: "{count} unread" }, nothingUnread: "nothing unread", new: "Unread",
    markAllRead: "Mark all read", markRead: "Mark read", markUnread: "Mark unread", archive: "Archive",
    snooze: "Snooze", snoozeHour: "For an hour", snoozeTomorrow: "Until tomorrow, 9:00", snoozeWeek: "Until Monday, 9:00",
    about: "{action}: “{title}”", more: "Show older", loading: "Reading the inbox…", emptyTitle: "Nothing here yet",
    emptyText: "What comes will be here, and on all your devices.", error: "The inbox could not be read.",
    retry: "Try again", signedOut: "You are signed out.", offline: "Offline. What you missed comes with the connection.",
    recovering: "Catching up…", failed: "That did not work: {reason}", undo: "Undo", archived: "Archived “{title}”.",
    snoozed: "Put off “{title}”.", allRead: "Everything is read.", dismiss: "Dismiss",
    notifications: "Notifications", high: "Important", urgent: "Urgent", preferences: "How you are told",
    anyType: "Everything else", reset: "Back to the usual", saved: "Saved.", unreadable: "Your settings could not be read.",
    channels: { push: "Push", email: "E-mail", sms: "SMS", whatsapp: "WhatsApp", telegram: "Telegram", webhook: "Webhook" },
    optOuts: "What you stopped", lift: "Start again", everything: "Everything", byChannel: "{type} by {channel}",
    push: "On this device", pushOff: "You are told only while this page is open.",
    pushOn: "You are told here, also while this page is closed.", pushAsk: "Be told here also while this page is closed? Your browser will ask you once more.",
    pushYes: "Turn on", pushNo: "Turn off", pushLater: "Not now", pushTest: "Send a test", pushTested: "A test is on its way.",
    pushDenied: "Your browser refuses notifications from this site. Allow them in its settings for this site, then come back.",
    pushUnsupported: "This browser can not be told anything while the page is closed.",
    pushInstall: "On an iPhone or iPad: tap Share, then “Add to Home Screen”, and open this from there.",
  },
};

/** In texts/. */
export const languages = ["ar", "de", "en", "es", "fr", "pt", "sw"];

const locales = new Map();

/** What a language needs: its words (English where it has none) and the formats of Intl. */
function localeOf(language) {
  if (!locales.has(language)) {
    const names = [language, language.split("-")[0]];
    const locale = {
      isReady: false,
      get words() { return texts[names.find((name) => name in texts) ?? "en"]; },
      plural: new Intl.PluralRules(language),
      number: new Intl.NumberFormat(language),
      relative: new Intl.RelativeTimeFormat(language, { numeric: "auto" }),
      exact: new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" }),
    };
    locales.set(language, locale);
    learn(names.find((name) => name in texts || languages.includes(name)), locale);
  }
  return locales.get(language);
}

async function learn(name, locale) {
  try {
    if (name && !(name in texts)) {
      const { default: words } = await import(`./texts/${name}.js`);
      texts[name] ??= words;
    }
  } catch (error) {
    for (const element of elements) element.fail(error); // and it is English for now
  }
  locale.isReady = true;
  for (const element of elements) element.redraw();
}

/** The `lang` of the nearest element around that has one, across shadow roots, else the browser's. */
function languageOf(element) {
  for (let node = element; node; node = node.parentNode ?? node.host) {
    const language = node.lang || node.getAttribute?.("lang");
    if (language) {
      try {
        return Intl.getCanonicalLocales(language)[0];
      } catch {
        break; // "en_US" and the like
      }
    }
  }
  return globalThis.navigator?.language || "en";
}

// -- Building -----------------------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";

const ICONS = {
  bell: "M12 2.2a1.6 1.6 0 0 0-1.6 1.6v.5C7.6 5 5.6 7.5 5.6 10.5v4.2l-1.7 2.5c-.4.6 0 1.4.7 1.4h14.8c.7 0 1.1-.8.7-1.4l-1.7-2.5v-4.2c0-3-2-5.5-4.8-6.2v-.5A1.6 1.6 0 0 0 12 2.2ZM9.6 20a2.4 2.4 0 0 0 4.8 0Z",
  read: "m9.5 17.5-5-5 1.4-1.4 3.6 3.6 8.6-8.6 1.4 1.4z",
  unread: "M12 7a5 5 0 1 1 0 10 5 5 0 0 1 0-10Z",
  snooze: "M12 3a9 9 0 1 1 0 18 9 9 0 0 1 0-18Zm0 2a7 7 0 1 0 0 14 7 7 0 0 0 0-14Zm1 2.5v4l3 1.8-1 1.7-4-2.4V7.5z",
  archive: "M3.5 4h17v5H19.5v11h-15V9H3.5Zm2 2v1h13V6Zm1 3v9h11V9Zm3 2h5v2h-5z",
  close: "m6.4 5 5.6 5.6L17.6 5 19 6.4 13.4 12l5.6 5.6-1.4 1.4-5.6-5.6L6.4 19 5 17.6l5.6-5.6L5 6.4z",
};

/** An element; `on…` in its attributes are listeners, null and false are left out. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(key.slice(2), value);
    else put(element, key, value);
  }
  element.append(...children);
  return element;
}

function put(element, key, value) {
  if (value === null || value === undefined || value === false) element.removeAttribute(key);
  else if (element.getAttribute(key) !== String(value)) element.setAttribute(key, value === true ? "" : value);
}

/** The words of an attribute. */
const words = (element, name) => element.getAttribute(name)?.split(/[\s,]+/).filter(Boolean);

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  for (const [key, value] of [["viewBox", "0 0 24 24"], ["aria-hidden", "true"]]) svg.setAttribute(key, value);
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** An icon in place of another. */
function redraw(button, name) {
  const path = button.querySelector("path");
  if (path.getAttribute("d") !== ICONS[name]) path.setAttribute("d", ICONS[name]);
}

const button = (part, onclick, ...children) => make("button", { type: "button", part, onclick }, ...children);

/** Whether a click in a notification is about something else: a button, or text that was selected. */
function isBeside(event, link) {
  if (event.composedPath().includes(link)) return false;
  return event.target.closest("button") || !getSelection().isCollapsed;
}

/** Put a popover at an element: below, or above where there is more room, its end at the element's end. */
function place(panel, anchor) {
  const gap = 8;
  const at = anchor.getBoundingClientRect();
  const { offsetWidth: width } = panel;
  const isBelow = innerHeight - at.bottom >= Math.min(320, at.top);
  const wanted = getComputedStyle(anchor).direction === "rtl" ? at.left : at.right - width;
  const left = Math.max(gap, Math.min(wanted, document.documentElement.clientWidth - width - gap));
  const [top, bottom] = isBelow ? [`${at.bottom + gap}px`, "auto"] : ["auto", `${innerHeight - at.top + gap}px`];
  Object.assign(panel.style, { left: `${left}px`, top, bottom });
  panel.style.setProperty("--_room", `${(isBelow ? innerHeight - at.bottom : at.top) - 2 * gap}px`);
}

// -- Looks --------------------------------------------------------------------------------------------

const LIGHT = {
  background: "#fffdf9", text: "#23201b", muted: "#6b6459", border: "#e4ddd0", accent: "#96560a", "on-accent": "#fffdf9",
  unread: "#f9f1e8", urgent: "#b3261e",
};
const DARK = {
  background: "#1c1f25", text: "#ece8e0", muted: "#a8a297", border: "#3a3f49", accent: "#e5ae5c", "on-accent": "#1d1608",
  unread: "#282725", urgent: "#ff8a80",
};

const colours = (of) => Object.keys(LIGHT).map((name) => `--_${name}: var(--notify-${name}, ${of(name)});`).join("\n");

const COMMON = `
:host {
  ${colours((name) => LIGHT[name])}
  --_radius: var(--notify-radius, .875rem);
  --_shadow: var(--notify-shadow, 0 1px 2px rgb(0 0 0 / 12%), 0 8px 32px rgb(0 0 0 / 16%));
  display: block;
  color: var(--_text);
  font: var(--notify-font, 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif);
  text-align: start;
  -webkit-text-size-adjust: 100%;
}
@supports (color: light-dark(red, red)) {
  :host { ${colours((name) => `light-dark(${LIGHT[name]}, ${DARK[name]})`)} }
}
:host([theme="light"]) { color-scheme: light; }
:host([theme="dark"]) { color-scheme: dark; }
:host([hidden]), [hidden] { display: none !important; }
*, ::before, ::after { box-sizing: border-box; }
h2, h3, p, ul { margin: 0; padding: 0; }
h2 { font-size: 1.0625rem; font-weight: 650; }
h3 { font-size: 1rem; font-weight: 600; }
a { color: inherit; text-decoration: none; }
:focus-visible { outline: 2px solid var(--_accent); outline-offset: 2px; }
button {
  min-width: 1.75rem;
  min-height: 1.75rem;
  padding: .25rem .75rem;
  border: 1px solid var(--_border);
  border-radius: .5rem;
  background: transparent;
  color: inherit;
  font: inherit;
  font-size: .875rem;
  line-height: 1.25rem;
  cursor: pointer;
}
button:hover:not(:disabled) { border-color: var(--_accent); color: var(--_accent); }
button:disabled { opacity: .5; cursor: default; }
button svg { display: block; width: 1.25rem; height: 1.25rem; fill: currentcolor; }
.icon { padding: .1875rem; border-color: transparent; color: var(--_muted); }
.icon:hover { background: var(--_unread); }
.solid { border-color: var(--_accent); background: var(--_accent); color: var(--_on-accent); font-weight: 600; }
.solid:hover:not(:disabled) { background: var(--_text); border-color: var(--_text); color: var(--_background); }
[dir="auto"] { text-align: -webkit-match-parent; text-align: match-parent; }
.quiet { color: var(--_muted); font-size: .9375rem; }
.unseen {
  position: absolute;
  width: 1px;
  height: 1px;
  margin: -1px;
  overflow: hidden;
  clip-path: inset(50%);
  white-space: nowrap;
}
.row { display: flex; flex-wrap: wrap; align-items: center; gap: .5rem; }
[popover] {
  position: fixed;
  inset: auto;
  margin: 0;
  padding: 0;
  border: 1px solid var(--_border);
  border-radius: var(--_radius);
  background: var(--_background);
  color: var(--_text);
  box-shadow: var(--_shadow);
}
@media (prefers-reduced-motion: reduce) { *, ::before, ::after { animation: none !important; transition: none !important; } }
@media (forced-colors: active) { button, [part~="badge"], [part~="toast"] { border: 1px solid; } }
`;

const sheets = new Map();

/** One sheet for all elements that share its text. */
function sheet(css) {
  if (!sheets.has(css)) {
    const made = new CSSStyleSheet();
    made.replaceSync(css);
    sheets.set(css, made);
  }
  return sheets.get(css);
}

// -- One hub for all ----------------------------------------------------------------------------------

let common = null; // what useHub() was given
const elements = new Set(); // those in a document
const lent = new Map(); // getToken -> url -> {hub, users}
const speakers = ["NOTIFY-TOASTS", "NOTIFY-INBOX", "NOTIFY-BELL"]; // who tells screen readers, the first that is there

/** The hub of every element that was given none: now and later. */
export function useHub(hub) {
  common = hub;
  for (const element of elements) element.renew();
}

/** The hub that all elements with this token and address share; it ends with the last of them. */
function borrow(getToken, url) {
  const here = lent.get(getToken) ?? new Map();
  lent.set(getToken, here);
  const loan = here.get(url) ?? { hub: createHub({ getToken, url }), users: 0 };
  here.set(url, loan);
  loan.users += 1;
  const giveBack = () => setTimeout(() => { // not at once: an element may only be moving
    loan.users -= 1;
    if (loan.users) return;
    loan.hub.disconnect();
    here.delete(url);
    if (!here.size) lent.delete(getToken);
  });
  return { hub: loan.hub, giveBack };
}

/** A change of `lang` on the page is heard by all. */
if (globalThis.document) {
  const observer = new MutationObserver(() => {
    for (const element of elements) element.renewTexts();
  });
  observer.observe(document.documentElement, { attributes: true, attributeFilter: ["lang", "dir"] });
}

/** What all elements have: a hub, a language, a shadow root that is drawn at most once a frame. */
class NotifyElement extends (globalThis.HTMLElement ?? Object) {
  static observedAttributes = ["url", "lang", "theme"];
  static css = "";
  #given = null;
  #getToken = null;
  #texts = {};
  #attached = null; // {hub, giveBack, stop}
  #isDrawn = true;
  #live = {};

  /** The hub that it shows: what it was given, else the one of its url and getToken, else that of useHub(). */
  get hub() { return this.#attached?.hub ?? this.#given; }
  set hub(hub) {
    this.#given = hub ?? null;
    this.renew();
  }

  /** As in createHub(). Elements with the same function and url share one hub. */
  get getToken() { return this.#getToken; }
  set getToken(getToken) {
    this.#getToken = getToken ?? null;
    this.renew();
  }

  /** Where the hub is. */
  get url() { return this.getAttribute("url") ?? ""; }
  set url(url) { put(this, "url", url); }

  /** Texts to say in place of those of the language; `types` names kinds of notifications. */
  get texts() { return this.#texts; }
  set texts(value) {
    this.#texts = value ?? {};
    this.renewTexts();
  }

  /** "light" or "dark"; without it the page's color-scheme holds. */
  get theme() { return this.getAttribute("theme") ?? ""; }
  set theme(theme) { put(this, "theme", theme || null); }

  connectedCallback() {
    if (!this.shadowRoot) this.#begin();
    elements.add(this);
    this.locale = localeOf(languageOf(this));
    this.renew();
    this.redraw();
  }

  disconnectedCallback() {
    elements.delete(this);
    this.#detach();
  }

  attributeChangedCallback(name, before, now) {
    if (before === now || !this.shadowRoot) return;
    if (name === "url") this.renew();
    else if (name === "lang") this.renewTexts();
    else this.redraw();
  }

  #begin() {
    const root = this.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [sheet(COMMON), sheet(this.constructor.css)];
    this.#live.polite = make("div", { class: "unseen", role: "log", "aria-live": "polite", part: "polite" });
    this.#live.urgent = make("div", { class: "unseen", role: "alert", part: "assertive" });
    root.append(...this.build(), this.#live.polite, this.#live.urgent);
    for (let kind = this.constructor; kind !== NotifyElement.__proto__; kind = Object.getPrototypeOf(kind)) {
      for (const name of Object.getOwnPropertyNames(kind.prototype)) { // set before the element was defined
        if (name === "constructor" || !Object.hasOwn(this, name)) continue;
        const value = this[name];
        delete this[name];
        this[name] = value;
      }
    }
  }

  /** The hub may be another now. */
  renew() {
    if (!elements.has(this)) return;
    const around = this.closest("notify-bell");
    const outer = around !== this ? around?.hub : null;
    const borrowed = !this.#given && this.#getToken ? borrow(this.#getToken, this.url) : null;
    const hub = this.#given ?? borrowed?.hub ?? outer ?? common;
    if (hub === (this.#attached?.hub ?? null)) return borrowed?.giveBack();
    this.#detach();
    if (!hub) return;
    const stop = new AbortController();
    this.#attached = { hub, stop, giveBack: borrowed?.giveBack };
    hub.on("notification", (event) => this.#announce(event), { signal: stop.signal });
    this.attach(hub, stop.signal);
    if (hub.state.reason === "new") hub.connect().catch(() => {}); // its state says why
    this.redraw();
  }

  #detach() {
    this.#attached?.stop.abort();
    this.#attached?.giveBack?.();
    this.#attached = null;
  }

  renewTexts() {
    if (!elements.has(this)) return;
    this.locale = localeOf(languageOf(this));
    this.redraw();
  }

  redraw() {
    if (!this.#isDrawn || !this.locale?.isReady) return;
    this.#isDrawn = false;
    requestAnimationFrame(() => {
      this.#isDrawn = true;
      if (this.isConnected) this.draw();
    });
  }

  /** Only one element of a hub speaks. */
  #announce({ notification: { title, message, priority } }) {
    const others = [...elements].filter((one) => one.hub === this.hub);
    const speaker = speakers.map((name) => others.find((one) => one.tagName === name)).find(Boolean);
    if (speaker !== this) return;
    const region = this.#live[priority === "urgent" ? "urgent" : "polite"];
    region.append(make("p", {}, `${title}. ${message}`));
    while (region.childElementCount > 5) region.firstElementChild.remove();
  }

  /** The text of `key`, a member of it where `key` is "a.b". */
  t(key, values = {}) {
    const find = (from) => key.split(".").reduce((found, part) => found?.[part], from);
    let text = find(this.#texts) ?? find(this.locale.words) ?? find(texts.en);
    if (typeof text === "object") text = text[this.locale.plural.select(values.count)] ?? text.other;
    return text?.replace(/\{(\w+)\}/g, (_, name) => values[name === "count" ? "shown" : name] ?? this.count(values.count));
  }

  /** A count for eyes: the server counts no further than 999. */
  count(number, most = 999) {
    return this.locale.number.format(Math.min(number, most)) + (number > most ? "+" : "");
  }

  /** What a kind of notification is called. */
  typeName(type) {
    return this.t(`types.${type}`) ?? type.replace(/[_.-]+/g, " ").replace(/^./, (first) => first.toUpperCase());
  }

  ago(time) {
    const seconds = Math.max(0, ((this.hub?.now() ?? Date.now()) - Date.parse(time)) / 1_000);
    for (const [unit, size] of [["day", 86_400], ["hour", 3_600], ["minute", 60]]) {
      if (seconds >= size) return this.locale.relative.format(-Math.floor(seconds / size), unit);
    }
    return this.locale.relative.format(0, "second");
  }

  /** Tell the page. False: it wants us to do nothing more. */
  tell(type, detail, cancelable = false) {
    return this.dispatchEvent(new CustomEvent(type, { detail, bubbles: true, composed: true, cancelable }));
  }

  fail(error) {
    this.tell("notify-error", { error });
  }

  /** A click on a notification: the page first, then read, then its link. */
  follow(event, item, anchor) {
    const link = this.hub.link(item);
    const isAnchor = event.composedPath().includes(anchor);
    if (link && !isAnchor) return anchor.click(); // which comes back here
    if (!this.tell("notify-click", { notification: item, link }, true)) event.preventDefault();
    else if (!item.read) this.hub.inbox.markRead(item.id).catch((error) => this.fail(error));
  }
}

// -- The inbox ----------------------------------------------------------------------------------------

const INBOX_CSS = `
:host { position: relative; }
[part~="inbox"] { display: flex; flex-direction: column; min-height: 0; height: 100%; max-height: inherit; border-radius: inherit; outline-offset: -2px; }
[part~="inbox"]:focus { outline: none; }
[part~="header"] {
  display: flex;
  flex: none;
  align-items: center;
  gap: .125rem .75rem;
  min-height: 3.25rem;
  padding: .625rem 1.25rem;
  border-block-end: 1px solid var(--_border);
}
[part~="title-row"] { display: flex; flex: 1; flex-wrap: wrap; align-items: baseline; gap: 0 .625rem; min-width: 0; }
[part~="count"], [part~="status"] { color: var(--_muted); font-size: .9375rem; }
[part~="mark-all"] { flex: none; }
[part~="status"] { flex: none; padding: .5rem 1.25rem; border-block-end: 1px solid var(--_border); background: var(--_unread); }
[part~="status"][data-state="recovering"], [part~="loading"] { animation: late .6s step-end; }
.scroll { flex: 1 1 auto; min-height: 0; overflow-y: auto; overscroll-behavior: contain; }
[part~="item"] {
  position: relative;
  display: grid;
  grid-template-columns: .625rem minmax(0, 1fr);
  gap: .25rem .875rem;
  padding: .9375rem 1.25rem;
  border-block-end: 1px solid var(--_border);
}
[part~="item"]:last-child { border-block-end: 0; }
[part~="item"]:focus-visible { outline-offset: -3px; border-radius: var(--_radius); }
[part~="item"].unread { background: var(--_unread); }
[part~="item"].fresh { animation: arrive 1.6s ease-out; }
[part~="item"].linked { cursor: pointer; }
[part~="mark"] { width: .5rem; height: .5rem; margin-block-start: .5rem; border-radius: 50%; }
.unread > [part~="mark"] { background: var(--_accent); }
.unread[data-priority="urgent"] > [part~="mark"] { background: var(--_urgent); }
.content { min-width: 0; }
[part~="title"] { font-weight: 500; overflow-wrap: anywhere; }
.unread [part~="title"] { font-weight: 650; }
[part~="link"][href]:hover { text-decoration: underline; text-underline-offset: .2em; }
[part~="message"] { color: var(--_muted); font-size: .9375rem; overflow-wrap: anywhere; white-space: pre-line; }
[part~="meta"] { display: flex; flex-wrap: wrap; gap: 0 .625rem; margin-block-start: .25rem; color: var(--_muted); font-size: .8125rem; }
[part~="meta"] > :empty { display: none; }
[part~="priority"] { color: var(--_accent); font-weight: 650; }
[data-priority="urgent"] [part~="priority"] { color: var(--_urgent); }
[part~="actions"] { grid-column: 2; display: flex; gap: .25rem; margin-inline-start: -.25rem; }
@media (hover: hover) {
  [part~="actions"] {
    position: absolute;
    inset-block-start: .375rem;
    inset-inline-end: .75rem;
    padding: .0625rem;
    border: 1px solid var(--_border);
    border-radius: .625rem;
    background: var(--_background);
  }
  [part~="item"]:not(:hover, :focus-visible, :has(:focus-visible), .chosen) [part~="actions"] { opacity: 0; }
}
[part~="loading"], [part~="empty"], [part~="error"] { display: grid; gap: .25rem; justify-items: center; padding: 3rem 1.5rem; color: var(--_muted); text-align: center; }
[part~="empty"] svg { width: 2.5rem; height: 2.5rem; margin-block-end: .5rem; fill: var(--_border); }
[part~="empty"] h3 { color: var(--_text); }
[part~="error"] button { margin-block-start: .75rem; color: var(--_text); }
[part~="more"] { display: block; margin: .75rem auto; }
[part~="notice"] {
  position: sticky;
  inset-block-end: 0;
  display: flex;
  flex: none;
  align-items: center;
  justify-content: space-between;
  gap: .75rem;
  padding: .5rem .75rem .5rem 1.25rem;
  border-radius: 0 0 var(--_radius) var(--_radius);
  background: var(--_text);
  color: var(--_background);
  font-size: .9375rem;
}
[part~="notice"]:dir(rtl) { padding: .5rem 1.25rem .5rem .75rem; }
[part~="notice"] span { overflow-wrap: anywhere; }
[part~="notice"] button { flex: none; border-color: transparent; font-weight: 650; text-decoration: underline; text-underline-offset: 3px; }
[part~="notice"] button:hover { border-color: currentcolor; color: inherit; }
[part~="notice"] :focus-visible { outline-color: currentcolor; }
[part~="menu"] { padding: .375rem; }
[part~="menu"]:popover-open { display: grid; }
[part~="menu"] button { border-color: transparent; text-align: start; }
[part~="menu"] button:is(:hover, :focus) { background: var(--_unread); }
@keyframes late { from { opacity: 0; } }
@keyframes arrive { from { background: color-mix(in srgb, var(--_accent) 28%, var(--_background)); } }
`;

const NOTICE_MS = 8_000;

/** When a snooze ends, by the local clock. */
const SNOOZES = {
  snoozeHour: (now) => now + 3_600_000,
  snoozeTomorrow: (now) => morning(now, 1),
  snoozeWeek: (now) => morning(now, (8 - new Date(now).getDay()) % 7 || 7),
};

function morning(now, days) {
  const date = new Date(now);
  date.setDate(date.getDate() + days);
  return date.setHours(9, 0, 0, 0);
}

/** <notify-inbox>: what a person was told, and what they do with it. */
export class NotifyInbox extends NotifyElement {
  static observedAttributes = [...NotifyElement.observedAttributes, "page-size"];
  static css = INBOX_CSS;
  #parts = {};
  #shown = new Map(); // id -> article and its parts
  #fresh = new Set(); // ids that came while we watched
  #state = "loading";
  #nextCursor = null;
  #isAwaited = false; // the focus is here before there is anything to put it on
  #renderItem = null;
  #chosen = null; // of the open menu
  #notice = null;
  #timers = {};

  /** How many at a time, 30 where it is not set. */
  get pageSize() { return Number(this.getAttribute("page-size")) || 30; }
  set pageSize(size) { put(this, "page-size", size || null); }

  /** (notification) => Node: what one looks like, in place of ours. */
  get renderItem() { return this.#renderItem; }
  set renderItem(render) {
    this.#renderItem = render ?? null;
    this.redraw();
  }

  /** loading, ready, empty or error. */
  get state() { return this.#state === "ready" && !this.hub?.inbox.items.length ? "empty" : this.#state; }

  build() {
    const p = this.#parts;
    p.heading = make("h2", { part: "heading", id: "heading" });
    p.count = make("span", { part: "count" });
    p.markAll = button("mark-all", () => this.#markAll());
    p.status = make("p", { part: "status", role: "status", hidden: true });
    p.loading = make("p", { part: "loading" });
    p.feed = make("div", { part: "feed", role: "feed", "aria-labelledby": "heading", "aria-busy": "true", hidden: true });
    p.emptyTitle = make("h3");
    p.emptyText = make("p", { class: "quiet" });
    p.empty = make("div", { part: "empty", hidden: true }, make("slot", { name: "empty" }, icon("bell"), p.emptyTitle, p.emptyText));
    p.errorText = make("p", { role: "alert" });
    p.retry = button("retry", () => this.reload());
    p.error = make("div", { part: "error", hidden: true }, p.errorText, p.retry);
    p.more = button("more", () => this.#load(this.#nextCursor));
    p.noticeText = make("span", { role: "status" });
    p.undo = button("undo", () => this.#undo());
    p.notice = make("div", { part: "notice", hidden: true }, p.noticeText, p.undo);
    p.menu = make("div", { part: "menu", role: "menu", popover: "auto", "aria-labelledby": "menu-name" });
    p.menuName = make("span", { class: "unseen", id: "menu-name" });
    for (const name of Object.keys(SNOOZES)) {
      const choice = button("menu-item", () => this.#snooze(name));
      choice.role = "menuitem";
      choice.dataset.name = name;
      p.menu.append(choice);
    }
    p.inbox = make("section", { part: "inbox", "aria-labelledby": "heading", tabindex: "-1" },
      make("div", { part: "header" },
        make("div", { part: "title-row" }, make("slot", { name: "header" }, p.heading), p.count), p.markAll),
      p.status,
      make("div", { class: "scroll" }, p.loading, p.feed, p.empty, p.error, p.more),
      make("slot", { name: "footer" }), p.notice);
    p.feed.addEventListener("keydown", (event) => this.#key(event));
    p.feed.addEventListener("focusin", (event) => this.#here(event.target.closest("article")));
    p.menu.addEventListener("keydown", (event) => this.#menuKey(event));
    p.menu.addEventListener("toggle", (event) => this.#menuToggled(event));
    return [p.inbox, p.menuName, p.menu];
  }

  attach(hub, signal) {
    hub.on("inbox", () => this.redraw(), { signal });
    hub.on("count", () => this.redraw(), { signal });
    hub.on("resync", () => this.#load(), { signal });
    hub.on("notification", ({ notification }) => this.#fresh.add(notification.id), { signal });
    hub.on("state", ({ state }) => {
      if (state === "open" && this.#state === "error") this.reload();
      this.redraw();
    }, { signal });
    const aging = setInterval(() => this.redraw(), 30_000);
    signal.addEventListener("abort", () => clearInterval(aging));
    this.reload();
  }

  /** Read the first page again. */
  reload() {
    this.#state = "loading";
    this.redraw();
    return this.#load();
  }

  async #load(cursor) {
    const { hub } = this;
    try {
      const { nextCursor } = await hub.inbox.list({ limit: this.pageSize, cursor: cursor ?? undefined });
      if (hub !== this.hub) return;
      this.#nextCursor = nextCursor;
      this.#state = "ready";
    } catch (error) {
      if (hub !== this.hub) return;
      this.fail(error);
      if (cursor) this.#tellFailure(error);
      else if (hub.inbox.items.length) this.#state = "ready"; // what there is may well be shown
      else this.#state = "error";
    }
    this.redraw();
  }

  /** To the first unread notification, or the first. */
  focus(options) {
    const first = this.#parts.feed?.querySelector(".unread") ?? this.#parts.feed?.querySelector("article");
    this.#isAwaited = !first && this.#state === "loading";
    (first ?? this.#parts.inbox)?.focus(options);
  }

  draw() {
    const p = this.#parts;
    const { state, hub } = this;
    const items = hub?.inbox.items ?? [];
    const isShown = items.length > 0;
    const unread = hub?.inbox.unread ?? 0;
    say(p.heading, this.t("inbox"));
    say(p.count, unread ? this.t("unread", { count: unread }) : "");
    say(p.markAll, this.t("markAllRead"));
    p.markAll.disabled = !unread;
    say(p.loading, this.t("loading"));
    p.loading.hidden = state !== "loading" || isShown;
    say(p.emptyTitle, this.t("emptyTitle"));
    say(p.emptyText, this.t("emptyText"));
    p.empty.hidden = state !== "empty";
    p.error.hidden = state !== "error";
    if (state === "error") say(p.errorText, this.t(hub?.state.reason === "signed_out" ? "signedOut" : "error"));
    else say(p.errorText, "");
    say(p.retry, this.t("retry"));
    say(p.more, this.t("more"));
    p.more.hidden = !this.#nextCursor || !isShown;
    say(p.undo, this.t("undo"));
    p.feed.hidden = !isShown;
    put(p.feed, "aria-busy", String(state === "loading"));
    for (const choice of p.menu.children) say(choice, this.t(choice.dataset.name));
    say(p.menuName, this.t("snooze"));
    put(p.inbox, "role", this.closest("notify-bell") ?? this.getRootNode().host?.closest("notify-bell") ? "group" : null); // of a dialog
    this.#drawStatus(hub?.state ?? {});
    this.#drawItems(items);
    if (!this.#isAwaited || state === "loading") return;
    this.#isAwaited = false;
    if (this.shadowRoot.activeElement === p.inbox) this.focus();
  }

  #drawStatus({ state, reason }) {
    const { status } = this.#parts;
    const isOffline = (state === "offline" && reason !== "hidden") || (state === "closed" && !["new", "signed_out"].includes(reason));
    const isLate = state === "recovering" || (state === "connecting" && reason === "reconnect");
    status.hidden = !isOffline && !isLate;
    status.dataset.state = isOffline ? "offline" : "recovering";
    say(status, isOffline ? this.t("offline") : isLate ? this.t("recovering") : "");
  }

  #drawItems(items) {
    const { feed } = this.#parts;
    const wanted = new Set(items.map((item) => item.id));
    for (const [id, { article }] of this.#shown) {
      if (wanted.has(id)) continue;
      if (article.contains(this.shadowRoot.activeElement)) {
        (article.nextElementSibling ?? article.previousElementSibling ?? this.#parts.inbox).focus();
      }
      article.remove();
      this.querySelector(`:scope > [slot="item-${CSS.escape(id)}"]`)?.remove();
      this.#shown.delete(id);
    }
    items.forEach((item, place) => {
      const one = this.#shown.get(item.id) ?? this.#buildItem(item);
      this.#fill(one, item);
      put(one.article, "aria-posinset", place + 1);
      put(one.article, "aria-setsize", this.#nextCursor ? -1 : items.length);
      if (feed.children[place] !== one.article) feed.insertBefore(one.article, feed.children[place] ?? null);
    });
    this.#fresh.clear();
    this.#here(this.shadowRoot.activeElement?.closest("article") ?? feed.querySelector('article[tabindex="0"]') ?? feed.firstElementChild);
  }

  #buildItem({ id }) {
    const one = { item: null };
    const current = (act) => () => act(one.item);
    one.link = make("a", { part: "link", rel: "noopener noreferrer" });
    one.title = make("h3", { part: "title", id: `t-${id}`, dir: "auto" }, one.link);
    one.message = make("p", { part: "message", id: `m-${id}`, dir: "auto" });
    one.new = make("span", { class: "unseen", id: `n-${id}` });
    one.priority = make("span", { part: "priority" });
    one.type = make("span", { part: "type" });
    one.time = make("time", { part: "time" });
    one.slot = make("slot", { name: `item-${id}` }, one.title, one.message,
      make("p", { part: "meta" }, one.new, one.priority, one.type, one.time));
    one.toggle = button("action toggle", current((item) => this.#toggle(item)), icon("read"));
    one.snooze = button("action snooze", current((item) => this.#openMenu(item)), icon("snooze"));
    one.archive = button("action archive", current((item) => this.#archive(item)), icon("archive"));
    for (const action of [one.toggle, one.snooze, one.archive]) action.className = "icon";
    put(one.snooze, "aria-haspopup", "menu");
    one.article = make("article", { tabindex: "-1", "aria-labelledby": `n-${id} t-${id}`, "aria-describedby": `m-${id}` },
      make("span", { part: "mark", "aria-hidden": "true" }), make("div", { class: "content" }, one.slot),
      make("div", { part: "actions" }, one.toggle, one.snooze, one.archive));
    one.article.addEventListener("click", (event) => {
      if (!isBeside(event, one.link)) this.follow(event, one.item, one.link);
    });
    if (this.#fresh.has(id)) one.article.classList.add("fresh");
    this.#shown.set(id, one);
    return one;
  }

  /** Only text goes into the page: what a notification says is somebody else's. */
  #fill(one, item) {
    const isNew = one.item !== item;
    one.item = item;
    const { article } = one;
    const isUnread = !item.read;
    const link = this.hub.link(item);
    article.classList.toggle("unread", isUnread);
    article.classList.toggle("linked", Boolean(link));
    put(article, "part", `item ${isUnread ? "unread" : "read"} priority-${item.priority}`);
    put(article, "data-priority", item.priority);
    say(one.link, item.title);
    put(one.link, "href", link);
    say(one.message, item.message);
    say(one.new, isUnread ? `${this.t("new")}: ` : "");
    say(one.priority, ["high", "urgent"].includes(item.priority) ? this.t(item.priority) : "");
    say(one.type, this.typeName(item.notification_type));
    put(one.time, "datetime", item.created_at);
    put(one.time, "title", this.locale.exact.format(new Date(item.created_at)));
    say(one.time, this.ago(item.created_at));
    redraw(one.toggle, isUnread ? "read" : "unread");
    for (const [action, key] of [[one.toggle, isUnread ? "markRead" : "markUnread"], [one.snooze, "snooze"], [one.archive, "archive"]]) {
      put(action, "aria-label", this.t("about", { action: this.t(key), title: item.title }));
      put(action, "title", this.t(key));
    }
    if (isNew) this.#renderOwn(one, item);
  }

  /** What the page wants in place of ours, in its own tree, so that its own styles hold. */
  #renderOwn(one, item) {
    const template = this.querySelector(':scope > template[slot="item"]');
    if (!template && !this.#renderItem) return;
    const name = `item-${item.id}`;
    let node = this.#renderItem?.(item);
    if (!node) {
      if (!template) return;
      node = template.content.firstElementChild.cloneNode(true);
      for (const field of [node, ...node.querySelectorAll("[data-field]")]) this.#fillField(field, item);
    }
    node.slot = name;
    const old = this.querySelector(`:scope > [slot="${CSS.escape(name)}"]`);
    if (old) old.replaceWith(node);
    else this.append(node);
    put(one.article, "aria-labelledby", null);
    put(one.article, "aria-describedby", null);
    put(one.article, "aria-label", item.read ? item.title : `${this.t("new")}: ${item.title}`);
  }

  #fillField(field, item) {
    const { field: name } = field.dataset;
    if (name === "time") field.textContent = this.ago(item.created_at);
    else if (name === "type") field.textContent = this.typeName(item.notification_type);
    else if (name === "link") put(field, "href", this.hub.link(item));
    else if (name) field.textContent = String(item[name] ?? item.metadata?.[name] ?? "");
  }

  // -- Keys and focus ---------------------------------------------------------------------------------

  /** Tab stops at one notification and its buttons; arrows go to the others. */
  #here(article) {
    for (const one of this.#shown.values()) {
      const stop = one.article === article ? "0" : "-1";
      put(one.article, "tabindex", stop);
      for (const control of [one.link, one.toggle, one.snooze, one.archive]) put(control, "tabindex", stop);
    }
  }

  #key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const articles = [...this.#parts.feed.children];
    const article = event.target.closest("article");
    const here = articles.indexOf(article);
    const [item] = [...this.#shown.values()].filter((one) => one.article === article);
    if (event.key === "Enter" && event.target === article) return this.follow(event, item.item, item.link);
    if (event.key === "Delete") return this.#archive(item.item);
    const steps = { ArrowDown: here + 1, PageDown: here + 1, ArrowUp: here - 1, PageUp: here - 1, Home: 0, End: articles.length - 1 };
    const there = articles[steps[event.key]];
    if (!there) return;
    event.preventDefault();
    there.focus();
  }

  #openMenu(item) {
    const { menu } = this.#parts;
    this.#chosen = this.#shown.get(item.id);
    this.#chosen.article.classList.add("chosen");
    menu.showPopover();
    place(menu, this.#chosen.snooze);
    menu.firstElementChild.focus();
  }

  #menuKey(event) {
    const choices = [...event.currentTarget.children];
    const here = choices.indexOf(event.target);
    const steps = { ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: -1 };
    if (event.key === "Tab") event.currentTarget.hidePopover();
    if (!(event.key in steps)) return;
    event.preventDefault();
    choices.at(steps[event.key] % choices.length).focus();
  }

  #menuToggled({ newState }) {
    if (newState === "open") return;
    const chosen = this.#chosen;
    chosen?.article.classList.remove("chosen");
    const { activeElement } = this.shadowRoot;
    if (!activeElement || this.#parts.menu.contains(activeElement)) chosen?.snooze.focus();
  }

  // -- What a person does -----------------------------------------------------------------------------

  #toggle(item) {
    if (item.read) this.#perform("unread", this.hub.inbox.markUnread(item.id), item);
    else this.#perform("read", this.hub.inbox.markRead(item.id), item);
  }

  #archive(item) {
    this.#perform("archive", this.hub.inbox.archive(item.id), item, "archived");
  }

  #snooze(name) {
    const { item } = this.#chosen;
    const until = SNOOZES[name](this.hub.now());
    this.#parts.menu.hidePopover();
    this.#chosen.article.focus();
    this.#perform("snooze", this.hub.inbox.snooze(item.id, until), item, "snoozed");
  }

  #markAll() {
    this.#parts.inbox.focus();
    this.#perform("read-all", this.hub.inbox.markAllRead(), null, "allRead");
  }

  async #undo() {
    this.#parts.notice.hidden = true;
    this.#parts.inbox.focus();
    await this.#perform("undo", this.hub.inbox.undo(), null);
  }

  async #perform(action, change, notification, done) {
    try {
      await change;
      this.tell("notify-action", { action, notification });
      if (done) this.#show(this.t(done, notification ?? {}), true);
    } catch (error) {
      this.fail(error);
      this.#tellFailure(error); // and the hub has taken it back
    }
  }

  #tellFailure(error) {
    this.#show(this.t("failed", { reason: error.message }), false);
  }

  #show(text, canUndo) {
    const p = this.#parts;
    p.notice.hidden = false;
    p.undo.hidden = !canUndo;
    p.noticeText.textContent = text;
    const fade = () => {
      if (p.notice.matches(":hover, :focus-within")) this.#timers.notice = setTimeout(fade, 2_000);
      else p.notice.hidden = true;
    };
    clearTimeout(this.#timers.notice);
    this.#timers.notice = setTimeout(fade, NOTICE_MS);
  }
}

// -- The bell -----------------------------------------------------------------------------------------

const BELL_CSS = `
:host { display: inline-block; }
[part~="button"] {
  position: relative;
  width: 2.75rem;
  height: 2.75rem;
  padding: .5rem;
  border-radius: 50%;
  background: var(--_background);
  color: var(--_accent);
}
[part~="button"] svg { width: 100%; height: 100%; overflow: visible; transform-origin: 50% 10%; }
.ringing svg { animation: swing .9s ease-out; }
[part~="badge"] {
  position: absolute;
  inset-block-start: -.3rem;
  inset-inline-end: -.4rem;
  min-width: 1.25rem;
  padding: 0 .3rem;
  border-radius: 1rem;
  outline: 2px solid var(--_background);
  background: var(--_urgent);
  color: var(--_background);
  font: 700 .75rem/1.25rem system-ui, sans-serif;
  font-variant-numeric: tabular-nums;
  text-align: center;
}
[part~="panel"] { width: min(var(--notify-panel-width, 26rem), 100vw - 1rem); max-height: min(40rem, var(--_room, 80vh)); overflow: hidden; }
[part~="panel"]:popover-open { display: flex; flex-direction: column; animation: open .12s ease-out; }
[part~="panel"] notify-inbox, ::slotted(notify-inbox) { flex: 1 1 auto; display: flex !important; flex-direction: column; min-height: 0; }
@keyframes open { from { opacity: 0; translate: 0 -.25rem; } }
@keyframes swing {
  15% { transform: rotate(16deg); }
  35% { transform: rotate(-13deg); }
  55% { transform: rotate(8deg); }
  75% { transform: rotate(-4deg); }
}
`;

/** Parts of the inbox inside, for those who style the bell from outside. */
const INBOX_PARTS = ["inbox", "header", "heading", "count", "mark-all", "status", "feed", "item", "unread", "read", "title",
  "link", "message", "meta", "priority", "type", "time", "actions", "action", "empty", "error", "more", "notice", "menu"];

/** <notify-bell>: a button that says how many are unread, and opens the inbox. */
export class NotifyBell extends NotifyElement {
  static observedAttributes = [...NotifyElement.observedAttributes, "max"];
  static css = BELL_CSS;
  #parts = {};

  /** The badge counts no further. 99 where it is not set. */
  get max() { return Number(this.getAttribute("max")) || 99; }
  set max(most) { put(this, "max", most || null); }

  /** Whether the inbox is open. */
  get isOpen() { return Boolean(this.#parts.panel?.matches(":popover-open")); }

  build() {
    const p = this.#parts;
    p.badge = make("span", { part: "badge", "aria-hidden": "true", hidden: true });
    p.button = button("button", null, icon("bell"), p.badge);
    put(p.button, "aria-haspopup", "dialog");
    p.slot = make("slot");
    p.panel = make("div", { part: "panel", popover: "auto", role: "dialog" }, p.slot);
    p.button.popoverTargetElement = p.panel;
    p.panel.addEventListener("beforetoggle", ({ newState }) => newState === "open" && this.#fill());
    p.panel.addEventListener("toggle", (event) => this.#toggled(event));
    p.panel.addEventListener("focusout", ({ relatedTarget }) => {
      const isHere = [p.button, this].includes(relatedTarget) || p.panel.contains(relatedTarget) || this.contains(relatedTarget);
      if (relatedTarget && !isHere) this.close();
    });
    p.panel.addEventListener("notify-click", (event) => queueMicrotask(() => {
      if (event.detail.link || event.defaultPrevented) this.close(); // it leads somewhere else
    }));
    return [p.button, p.panel];
  }

  attach(hub, signal) {
    hub.on("count", ({ unread }) => {
      this.redraw();
      this.tell("notify-count", { unread });
    }, { signal });
    hub.on("notification", () => {
      this.#parts.button.classList.remove("ringing");
      void this.#parts.button.offsetWidth; // so that it begins anew
      this.#parts.button.classList.add("ringing");
    }, { signal });
    for (const inbox of this.querySelectorAll("notify-inbox")) inbox.renew?.();
    if (this.#parts.inbox) this.#parts.inbox.hub = hub;
  }

  draw() {
    const p = this.#parts;
    const unread = this.hub?.inbox.unread ?? 0;
    p.badge.hidden = !unread;
    const shown = this.count(unread, this.max);
    say(p.badge, shown);
    const told = unread ? this.t("unread", { count: unread, shown }) : this.t("nothingUnread");
    put(p.button, "aria-label", `${this.t("inbox")}, ${told}`);
    put(p.panel, "aria-label", this.t("inbox"));
    put(p.button, "aria-expanded", String(this.isOpen));
    if (p.inbox) p.inbox.texts = this.texts;
  }

  /** An inbox of its own is made when it is first wanted. */
  #fill() {
    const p = this.#parts;
    if (p.inbox || this.querySelector("notify-inbox")) return;
    p.inbox = document.createElement("notify-inbox");
    put(p.inbox, "exportparts", INBOX_PARTS.join(", "));
    Object.assign(p.inbox, { hub: this.hub, texts: this.texts });
    p.slot.append(p.inbox);
  }

  #toggled({ newState }) {
    const p = this.#parts;
    const isOpen = newState === "open";
    put(p.button, "aria-expanded", String(isOpen));
    if (isOpen) {
      const move = () => (this.isOpen ? place(p.panel, p.button) : undefined);
      this.#parts.stop = new AbortController();
      for (const type of ["resize", "scroll"]) addEventListener(type, move, { signal: p.stop.signal, capture: true, passive: true });
      move();
      (this.querySelector("notify-inbox") ?? p.inbox)?.focus();
    } else {
      p.stop?.abort();
      const at = this.getRootNode().activeElement; // who went somewhere else stays there
      if (at === this || this.contains(at) || document.activeElement === document.body) p.button.focus();
    }
    this.tell(isOpen ? "notify-open" : "notify-close", {});
  }

  focus(options) {
    this.#parts.button?.focus(options);
  }

  open() {
    if (!this.isOpen) this.#parts.panel.showPopover();
  }

  close() {
    if (this.isOpen) this.#parts.panel.hidePopover();
  }
}

// -- Toasts -------------------------------------------------------------------------------------------

const TOASTS_CSS = `
:host { display: contents; }
[part~="stack"] {
  inset: auto;
  inset-block-end: max(1.25rem, env(safe-area-inset-bottom));
  inset-inline-end: 1.25rem;
  width: min(24rem, 100vw - 2.5rem);
  border: 0;
  background: none;
  box-shadow: none;
  overflow: visible;
}
[part~="stack"]:popover-open { display: grid; gap: .625rem; }
:host([position^="top"]) [part~="stack"] { inset-block: max(1.25rem, env(safe-area-inset-top)) auto; }
:host([position$="start"]) [part~="stack"] { inset-inline: 1.25rem auto; }
[part~="toast"] {
  display: grid;
  grid-template-columns: .5rem minmax(0, 1fr) auto;
  gap: 0 .75rem;
  padding: .75rem .625rem .75rem 1rem;
  border: 1px solid var(--_border);
  border-radius: var(--_radius);
  background: var(--_background);
  color: var(--_text);
  box-shadow: var(--_shadow);
  animation: in .2s ease-out;
}
[part~="toast"]:dir(rtl) { padding: .75rem 1rem .75rem .625rem; }
[part~="toast"].linked { cursor: pointer; }
[part~="toast"]::before { grid-area: 1 / 1; width: .5rem; height: .5rem; margin-block-start: .5rem; border-radius: 50%; background: var(--_accent); content: ""; }
[part~="toast"][data-priority="urgent"] { border-color: var(--_urgent); }
[part~="toast"][data-priority="urgent"]::before { background: var(--_urgent); }
[part~="title"] { overflow-wrap: anywhere; }
[part~="message"] {
  display: -webkit-box;
  overflow: hidden;
  color: var(--_muted);
  font-size: .9375rem;
  overflow-wrap: anywhere;
  -webkit-box-orient: vertical;
  -webkit-line-clamp: 4;
}
[part~="toast"] > :is([part~="title"], [part~="message"]) { grid-column: 2; }
[part~="dismiss"] { grid-area: 1 / 3 / span 2; align-self: start; }
@keyframes in { from { opacity: 0; translate: 0 .5rem; } }
`;

/** <notify-toasts>: what has just come, for a moment. */
export class NotifyToasts extends NotifyElement {
  static observedAttributes = [...NotifyElement.observedAttributes, "max", "duration", "position"];
  static css = TOASTS_CSS;
  #stack = null;
  #toasts = []; // the newest first: {item, wasHere, leftMs, node, …}
  #clock = 0; // performance.now() when the time of those shown was last taken
  #timer = null;
  #back = null; // where the focus was before it came here

  /** How many at once; 3 where it is not set. The oldest that are not urgent give way. */
  get max() { return Number(this.getAttribute("max")) || 3; }
  set max(most) { put(this, "max", most || null); }

  /** How long one stays, ms; 6000 where it is not set. Urgent ones stay until they are dismissed. */
  get duration() { return Number(this.getAttribute("duration")) || 6_000; }
  set duration(time) { put(this, "duration", time || null); }

  /** bottom-end, bottom-start, top-end or top-start. */
  get position() { return this.getAttribute("position") ?? "bottom-end"; }
  set position(position) { put(this, "position", position || null); }

  build() {
    this.#stack = make("div", { part: "stack", role: "region", popover: "manual" });
    this.#stack.addEventListener("focusin", ({ relatedTarget }) => {
      if (relatedTarget && !this.shadowRoot.contains(relatedTarget)) this.#back = relatedTarget;
    });
    this.#stack.addEventListener("keydown", (event) => {
      const toast = this.#toasts.find(({ node }) => node.contains(event.target));
      if (event.key === "Escape" && toast) this.#drop(toast);
    });
    return [this.#stack];
  }

  attach(hub, signal) {
    hub.on("notification", ({ notification }) => this.#add(notification), { signal });
    hub.on("updated", ({ notification }) => this.#update(notification), { signal });
    hub.on("inbox", () => this.#agree(), { signal });
    this.#timer = setInterval(() => this.#pass(), 250);
    signal.addEventListener("abort", () => {
      clearInterval(this.#timer);
      for (const toast of [...this.#toasts]) this.#drop(toast);
    });
  }

  /** Take them all away. */
  clear() {
    for (const toast of [...this.#toasts]) this.#drop(toast);
  }

  #add(notification) {
    const item = this.hub.inbox.items.find(({ id }) => id === notification.id);
    if (item?.read || !this.tell("notify-toast", { notification }, true)) return;
    const toast = { item: item ?? notification, wasHere: Boolean(item), leftMs: this.duration };
    this.#build(toast);
    this.#pass();
    this.#toasts.unshift(toast);
    while (this.#toasts.length > this.max) {
      this.#drop(this.#toasts.findLast(({ item: one }) => one.priority !== "urgent") ?? this.#toasts.at(-1));
    }
    if (!this.#toasts.includes(toast)) return;
    this.#stack.prepend(toast.node);
    if (!this.#stack.matches(":popover-open")) this.#stack.showPopover();
    this.redraw();
  }

  #build(toast) {
    toast.link = make("a", { part: "link", rel: "noopener noreferrer" });
    toast.title = make("h3", { part: "title", id: `t-${toast.item.id}`, dir: "auto" }, toast.link);
    toast.message = make("p", { part: "message", dir: "auto" });
    toast.dismiss = button("dismiss", () => this.#drop(toast), icon("close"));
    toast.dismiss.className = "icon";
    toast.node = make("div", { role: "group", "aria-labelledby": `t-${toast.item.id}` }, toast.title, toast.message, toast.dismiss);
    toast.node.addEventListener("click", (event) => {
      if (isBeside(event, toast.link)) return;
      this.follow(event, toast.item, toast.link);
      if (!this.hub.link(toast.item) || event.composedPath().includes(toast.link)) this.#drop(toast);
    });
    this.#fill(toast);
  }

  #fill({ item, node, title, link, message, dismiss }) {
    const href = this.hub.link(item);
    put(node, "part", `toast priority-${item.priority}`);
    put(node, "data-priority", item.priority);
    node.classList.toggle("linked", Boolean(href));
    say(link, item.title);
    put(link, "href", href);
    say(message, item.message);
    put(dismiss, "aria-label", this.t("about", { action: this.t("dismiss"), title: title.textContent }));
    put(dismiss, "title", this.t("dismiss"));
  }

  draw() {
    put(this.#stack, "aria-label", this.t("notifications"));
    for (const toast of this.#toasts) this.#fill(toast);
  }

  #update(content) {
    for (const toast of this.#toasts) {
      if (toast.item.id === content.id) toast.item = { ...toast.item, ...content };
    }
    this.redraw();
  }

  /** Read or gone elsewhere: gone here. */
  #agree() {
    if (!this.#toasts.length) return;
    const items = new Map(this.hub.inbox.items.map((item) => [item.id, item]));
    for (const toast of [...this.#toasts]) {
      const item = items.get(toast.item.id);
      if (toast.wasHere && (!item || item.read)) this.#drop(toast);
    }
  }

  /** Time passes, unless somebody is at them or nobody looks. */
  #pass() {
    const now = performance.now();
    const passed = now - this.#clock;
    this.#clock = now;
    if (!this.#toasts.length || document.hidden || this.#stack.matches(":hover, :focus-within")) return;
    for (const toast of [...this.#toasts]) {
      if (toast.item.priority === "urgent") continue;
      toast.leftMs -= passed;
      if (toast.leftMs <= 0) this.#drop(toast);
    }
  }

  #drop(toast) {
    const hadFocus = toast.node.contains(this.shadowRoot.activeElement);
    this.#toasts = this.#toasts.filter((one) => one !== toast);
    toast.node.remove();
    if (hadFocus) (this.#toasts[0]?.dismiss ?? this.#back)?.focus();
    if (!this.#toasts.length && this.#stack.matches(":popover-open")) this.#stack.hidePopover();
  }
}

// -- Preferences --------------------------------------------------------------------------------------

const SWITCH_CSS = `
[part~="switch"] {
  appearance: none;
  position: relative;
  width: 2.5rem;
  height: 1.5rem;
  margin: 0;
  border: 1px solid var(--_muted);
  border-radius: 1rem;
  background: transparent;
  vertical-align: middle;
  cursor: pointer;
}
[part~="switch"]::before {
  position: absolute;
  inset-block-start: .1875rem;
  inset-inline-start: .1875rem;
  width: 1rem;
  height: 1rem;
  border-radius: 50%;
  background: var(--_muted);
  content: "";
  transition: inset-inline-start .12s;
}
[part~="switch"]:checked { border-color: var(--_accent); background: var(--_accent); }
[part~="switch"]:checked::before { inset-inline-start: 1.1875rem; background: var(--_on-accent); }
[part~="switch"]:disabled { opacity: .5; cursor: default; }
@media (forced-colors: active) { [part~="switch"] { appearance: auto; } [part~="switch"]::before { display: none; } }
`;

const PREFERENCES_CSS = `${SWITCH_CSS}
[part~="preferences"] { display: grid; grid-template-columns: minmax(0, 1fr); gap: 1.25rem; }
[part~="preferences"]:focus { outline: none; }
section { display: grid; grid-template-columns: minmax(0, 1fr); gap: .5rem; }
.scroll { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-size: .9375rem; }
th { padding: .5rem; font-weight: 500; text-align: start; }
thead th { color: var(--_muted); font-size: .8125rem; text-align: center; white-space: nowrap; }
tbody th { min-width: 7rem; padding-inline-start: 0; overflow-wrap: anywhere; }
td { padding: .375rem .5rem; text-align: center; }
tbody tr { border-block-start: 1px solid var(--_border); }
ul { list-style: none; }
li { display: flex; align-items: center; justify-content: space-between; gap: .75rem; padding-block: .375rem; border-block-start: 1px solid var(--_border); }
[part~="ask"] { display: grid; gap: .75rem; padding: .875rem 1rem; border: 1px solid var(--_border); border-radius: var(--_radius); background: var(--_unread); }
`;

const CHANNELS = ["push", "email", "sms", "whatsapp", "telegram"];
/** Why push can not be had, and the text that says so. */
const OBSTACLES = { denied: "pushDenied", needs_home_screen: "pushInstall" };
const PREFERENCES = "/api/v1/preferences";
const OPT_OUTS = `${PREFERENCES}/opt-outs`;

/** <notify-preferences>: what by which way, whether on this device, and what was stopped. */
export class NotifyPreferences extends NotifyElement {
  static observedAttributes = [...NotifyElement.observedAttributes, "types", "channels"];
  static css = PREFERENCES_CSS;
  #parts = {};
  #settings = null; // {matrix, effective} as the server said
  #optOuts = [];
  #push = null; // what hub.push.status() said
  #isAsking = false;
  #said = ""; // a key of the texts
  #why = {};
  #isBroken = false;
  #last = Promise.resolve(); // one change after the other

  /** Kinds of notifications that have a line of their own, beside those for which something is set. */
  get types() { return words(this, "types") ?? []; }
  set types(types) { put(this, "types", types?.join(" ") || null); }

  /** The ways that are shown; push, email, sms, whatsapp and telegram where it is not set. */
  get channels() { return words(this, "channels") ?? CHANNELS; }
  set channels(channels) { put(this, "channels", channels?.join(" ") || null); }

  build() {
    const p = this.#parts;
    p.heading = make("h2", { part: "heading", id: "heading" });
    p.pushTitle = make("h3", { id: "push" });
    p.pushText = make("p", { part: "push-status", class: "quiet" });
    p.turn = button("push-toggle", () => this.#turn());
    p.test = button("push-test", () => this.#test());
    p.askText = make("p");
    p.yes = button("push-yes", () => this.#enable());
    p.yes.className = "solid";
    p.later = button("push-later", () => this.#ask(false));
    p.ask = make("div", { part: "ask", role: "group", "aria-labelledby": "ask", hidden: true }, p.askText, make("div", { class: "row" }, p.yes, p.later));
    p.askText.id = "ask";
    p.push = make("section", { part: "push", "aria-labelledby": "push", hidden: true },
      p.pushTitle, p.pushText, p.ask, make("div", { class: "row" }, p.turn, p.test));
    p.head = make("tr");
    p.body = make("tbody");
    p.table = make("table", { part: "matrix", "aria-labelledby": "heading" }, make("thead", {}, p.head), p.body);
    p.reset = button("reset", () => this.#change(() => ({})));
    p.matrix = make("section", { hidden: true }, make("div", { class: "scroll" }, p.table), make("div", { class: "row" }, p.reset));
    p.optTitle = make("h3", { id: "stopped" });
    p.list = make("ul");
    p.optOuts = make("section", { part: "opt-outs", "aria-labelledby": "stopped", hidden: true }, p.optTitle, p.list);
    p.retry = button("retry", () => this.reload());
    p.status = make("p", { part: "status", role: "status", class: "quiet" });
    p.root = make("div", { part: "preferences", role: "group", "aria-labelledby": "heading", tabindex: "-1" },
      make("slot", { name: "header" }, p.heading), p.push, p.matrix, p.optOuts,
      make("div", { class: "row" }, p.status, p.retry), make("slot", { name: "footer" }));
    return [p.root];
  }

  attach(hub, signal) {
    this.#settings = null;
    hub.on("push", (status) => {
      this.#push = status;
      this.redraw();
    }, { signal });
    hub.on("state", ({ state }) => state === "open" && this.#isBroken && this.reload(), { signal });
    this.reload();
  }

  /** Read everything again. */
  async reload() {
    const { hub } = this;
    if (!hub) return;
    try {
      const [settings, { opt_outs: optOuts }, push] = await Promise.all([
        hub.request("GET", PREFERENCES), hub.request("GET", OPT_OUTS), hub.push?.status() ?? null,
      ]);
      if (hub !== this.hub) return;
      this.#settings = settings;
      this.#optOuts = optOuts;
      this.#push = push;
      this.#isBroken = false;
      this.#said = "";
    } catch (error) {
      this.#isBroken = true;
      this.#said = "unreadable";
      this.fail(error);
    }
    this.redraw();
  }

  draw() {
    const p = this.#parts;
    say(p.heading, this.t("preferences"));
    say(p.reset, this.t("reset"));
    say(p.optTitle, this.t("optOuts"));
    say(p.retry, this.t("retry"));
    p.retry.hidden = !this.#isBroken;
    say(p.status, this.#said ? this.t(this.#said, this.#why) : "");
    p.matrix.hidden = !this.#settings;
    if (this.#settings) this.#drawMatrix(this.#settings);
    this.#drawOptOuts();
    this.#drawPush();
  }

  #drawMatrix({ effective, matrix }) {
    const p = this.#parts;
    const { channels } = this;
    const types = [...new Set([...this.types, ...Object.keys(effective)])].filter((type) => type !== "*");
    const key = JSON.stringify([types, channels]);
    if (p.table.dataset.key !== key) {
      p.table.dataset.key = key;
      p.head.replaceChildren(make("td"), ...channels.map(() => make("th", { scope: "col" })));
      p.body.replaceChildren(...[...types, "*"].map((type) => this.#buildRow(type, channels)));
    }
    channels.forEach((channel, place) => say(p.head.children[place + 1], this.t(`channels.${channel}`) ?? channel));
    for (const row of p.body.rows) {
      const { type } = row.dataset;
      const name = type === "*" ? this.t("anyType") : this.typeName(type);
      say(row.firstElementChild, name);
      channels.forEach((channel, place) => {
        const control = row.children[place + 1].firstElementChild;
        control.checked = (effective[type] ?? effective["*"])[channel]?.is_enabled ?? true;
        put(control, "aria-label", this.t("byChannel", { type: name, channel: this.t(`channels.${channel}`) ?? channel }));
      });
    }
    p.reset.disabled = !Object.keys(matrix).length;
  }

  #buildRow(type, channels) {
    const cells = channels.map((channel) => {
      const onchange = ({ target }) => this.#change((matrix) => ({ ...matrix, [type]: { ...matrix[type], [channel]: target.checked } }));
      return make("td", {}, make("input", { type: "checkbox", role: "switch", part: "switch", onchange }));
    });
    const row = make("tr", {}, make("th", { scope: "row" }), ...cells);
    row.dataset.type = type;
    return row;
  }

  #drawOptOuts() {
    const p = this.#parts;
    p.optOuts.hidden = !this.#optOuts.length;
    p.list.replaceChildren(...this.#optOuts.map((one) => {
      const name = this.#nameOf(one);
      const lift = button("lift", () => this.#lift(one), this.t("lift"));
      put(lift, "aria-label", this.t("about", { action: this.t("lift"), title: name }));
      return make("li", {}, name, lift);
    }));
  }

  #nameOf({ scope, value }) {
    const channelName = (channel) => this.t(`channels.${channel}`) ?? channel;
    if (scope === "all") return this.t("everything");
    if (scope === "channel") return channelName(value);
    if (scope === "topic") return value;
    if (scope === "type") return this.typeName(value);
    const [channel, type] = value.split(":");
    return this.t("byChannel", { type: this.typeName(type), channel: channelName(channel) });
  }

  /** What changed elsewhere meanwhile stays: it is read before it is written. */
  #change(change) {
    this.#last = this.#last.then(() => this.#try(async () => {
      const { matrix } = await this.hub.request("GET", PREFERENCES);
      this.#settings = await this.hub.request("PUT", PREFERENCES, { body: { matrix: change(matrix) } });
      this.tell("notify-change", { matrix: this.#settings.matrix });
      return "saved";
    }));
  }

  #lift(one) {
    const { scope, value } = one;
    return this.#try(async () => {
      await this.hub.request("DELETE", `${OPT_OUTS}?${new URLSearchParams({ scope, value })}`);
      this.#optOuts = this.#optOuts.filter((other) => other !== one);
      return "saved";
    });
  }

  // -- This device ------------------------------------------------------------------------------------

  #drawPush() {
    const p = this.#parts;
    const { state, reason } = this.#push ?? {};
    p.push.hidden = !this.#push;
    say(p.pushTitle, this.t("push"));
    say(p.pushText, this.t(state === "on" ? "pushOn" : state === "off" ? "pushOff" : (OBSTACLES[reason] ?? "pushUnsupported")));
    say(p.turn, this.t(state === "on" ? "pushNo" : "pushYes"));
    say(p.test, this.t("pushTest"));
    say(p.askText, this.t("pushAsk"));
    say(p.yes, this.t("pushYes"));
    say(p.later, this.t("pushLater"));
    p.ask.hidden = !this.#isAsking;
    p.turn.hidden = this.#isAsking || !["on", "off"].includes(state);
    p.test.hidden = state !== "on";
  }

  /** Our own question comes first: the browser's can be answered with No for good. */
  async #turn() {
    if (this.#push.state !== "on") return this.#ask(true);
    await this.#try(async () => {
      this.#push = await this.hub.push.disable();
      return "";
    });
  }

  #ask(isAsking) {
    this.#isAsking = isAsking;
    this.draw();
    (isAsking ? this.#parts.yes : this.#parts.turn).focus();
  }

  async #enable() {
    const enabling = this.hub.push.enable(); // now: a click does not last
    await this.#try(async () => {
      try {
        this.#push = await enabling;
      } catch (error) {
        this.#push = await this.hub.push.status();
        if (!["denied", "dismissed"].includes(error.code)) throw error; // those are answers
      }
      return "";
    });
    const hadFocus = this.#parts.ask.contains(this.shadowRoot.activeElement);
    this.#isAsking = false;
    this.draw();
    if (hadFocus) (this.#parts.turn.hidden ? this.#parts.root : this.#parts.turn).focus();
  }

  #test() {
    return this.#try(async () => {
      await this.hub.push.test();
      return "pushTested";
    });
  }

  /** Do something and say how it went. */
  async #try(act) {
    try {
      this.#said = await act();
    } catch (error) {
      this.#said = "failed";
      this.#why = { reason: error.message };
      this.fail(error);
    }
    this.redraw();
  }
}

// -- The digest ---------------------------------------------------------------------------------------

/** <notify-digest-settings>: when the digest comes and what stands in it. What it shows is a file of its own. */
export class NotifyDigestSettings extends NotifyElement {
  static observedAttributes = [...NotifyElement.observedAttributes, "types", "channels"];
  static css = SWITCH_CSS;
  #root = null;
  #form = null; // once its file is here
  #attached = null;

  /** Kinds of notifications to choose from, beside those that are chosen. */
  get types() { return words(this, "types") ?? []; }
  set types(types) { put(this, "types", types?.join(" ") || null); }

  /** The ways to choose from; in_app, push, email, sms, whatsapp and telegram where it is not set. */
  get channels() { return words(this, "channels") ?? null; }
  set channels(channels) { put(this, "channels", channels?.join(" ") || null); }

  build() {
    this.#root = make("div", { part: "digest", role: "group", "aria-labelledby": "heading", tabindex: "-1" });
    return [this.#root];
  }

  attach(hub, signal) {
    this.#attached = { hub, signal };
    this.reload();
  }

  /** Read everything again. */
  async reload() {
    const attached = this.#attached;
    try {
      const { DigestForm, css, english } = await import("./digest-settings.js");
      texts.en.digest ??= english;
      if (!this.#form) {
        this.#root.replaceChildren();
        this.shadowRoot.adoptedStyleSheets.push(sheet(css));
        this.#form = new DigestForm(this, this.#root, { make, put, say, button });
      }
    } catch (error) {
      this.#root.replaceChildren(make("p", { role: "alert" }, this.t("unreadable")), button("retry", () => this.reload(), this.t("retry")));
      return this.fail(error);
    }
    if (!attached || attached !== this.#attached || attached.signal.aborted) return;
    await (attached.isShown ? this.#form.reload() : this.#form.attach(attached.hub, attached.signal));
    attached.isShown = true;
  }

  draw() { this.#form?.draw(); }
}

const ELEMENTS = {
  "notify-bell": NotifyBell,
  "notify-inbox": NotifyInbox,
  "notify-toasts": NotifyToasts,
  "notify-preferences": NotifyPreferences,
  "notify-digest-settings": NotifyDigestSettings,
};

/* Two copies of this file on one page: the first holds. */
for (const [name, element] of Object.entries(ELEMENTS)) {
  if (globalThis.customElements && !customElements.get(name)) customElements.define(name, element);
}
