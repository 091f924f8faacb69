/**
 * The browser side of Carillon: one WebSocket, an inbox that agrees with every other device, no silent loss.
 * The wire is docs/protocol.md, the types are client.d.ts. No dependency, no build step, safe to import anywhere.
 */

const DEADLINE_MS = 10_000; // for a ticket, a welcome, a reply, a pong
const STABLE_MS = 60_000; // an open connection this old starts the next back-off from the beginning
const RECEIPT_MS = 5_000;
const RECEIPT_ENTRIES = 20;
const KEPT = 1_000; // notifications and ids kept in memory
const AT_ONCE = 500; // notifications in one command
const MANY = 1_000; // the server counts no further; shown as "999+"

/** Close codes in words; isFinal: coming back is useless; needsToken: only with a new token. */
const CLOSE = {
  4401: "unauthorized", 4403: "forbidden", 4404: "not_found", 4408: "auth_timeout", 4409: "too_many_connections",
  4410: "token_expired", 4429: "slow_down", 1003: "unsupported", 1011: "internal", 1012: "restart", 1013: "overloaded",
};
const isFinal = (code) => code === 1003 || (code >= 4400 && code <= 4407);
const needsToken = (code) => code >= 4408 && code <= 4410;

/** Per method of the inbox: [command, event kind, the method that undoes it]. */
const ACTIONS = {
  markRead: ["mark_read", "read", "markUnread"],
  markUnread: ["mark_unread", "unread", "markRead"],
  markSeen: ["mark_seen", "seen"],
  archive: ["archive", "archived", "unarchive"],
  unarchive: ["unarchive", "unarchived", "archive"],
  snooze: ["snooze", "snoozed", "markUnread"],
};

/** What a state event changes in a notification; the first member is the one that tells whether it was so before. */
const CHANGES = {
  read: () => ({ read: true, seen: true, snoozed_until: null }),
  unread: () => ({ read: false, seen: true, snoozed_until: null }),
  seen: () => ({ seen: true }),
  archived: () => ({ archived: true, snoozed_until: null }),
  unarchived: () => ({ archived: false }),
  snoozed: ({ until }) => ({ snoozed_until: until, read: false, seen: true, archived: false }),
  read_all: () => ({ read: true, seen: true }),
};

/** The kinds of entries that change the inbox; others (topics, and what a later server may say) pass by it. */
const KINDS = new Set(["notification", "updated", "recalled", ...Object.keys(CHANGES)]);

/** Every failure a caller can meet; `code` is a row of docs/errors.md, or offline, timeout, network. */
export class HubError extends Error {
  constructor(code, message = code, { status = 0, retryAfterMs = 0, details = [], cause } = {}) {
    super(message, { cause });
    this.name = "HubError";
    Object.assign(this, { code, status, retryAfterMs, details });
  }
}

/** Full jitter: anywhere between now and 1 s, 2 s, 4 s … 30 s. `attempt` counts from 0. */
export const backoff = (attempt, random = Math.random) => random() * Math.min(30_000, 1_000 * 2 ** attempt);

/** The link if it may be followed, a path of this site or https (to one of `origins`, where given), else null. */
export function safeLink(link, origins) {
  if (typeof link !== "string" || /[\u0000- \u007f\\]/.test(link)) return null;
  if (/^\/(?!\/)/.test(link)) return link;
  if (!/^https:\/\/[^/@]+(\/|\?|#|$)/i.test(link)) return null; // no user name that looks like a host
  try {
    const { href, origin } = new URL(link);
    return !origins || origins.includes(origin) ? href : null;
  } catch {
    return null;
  }
}

/** What an entry at `seq` is to a reader who has everything of its stream up to `last`. */
const judge = (last, seq) => (last === undefined || seq === last + 1 ? "next" : seq > last ? "gap" : "old");

const covers = (positions, { stream, seq }) => !stream || seq === undefined || seq <= (positions[stream] ?? -1);

/** "All read up to here" leaves alone what is put off for later. */
const isReadBy = (positions, item) => covers(positions, item) && !item.snoozed_until;

const isUnread = (item) => !item.read && !item.archived && !item.snoozed_until;

const UNTOUCHED = { read: false, seen: false, archived: false, snoozed_until: null };

/**
 * What the server said, and over it what the user did that the server has not confirmed yet.
 * Rolling back is forgetting the latter. No I/O and no clock.
 */
class InboxState {
  items = new Map(); // id -> notification, as the server last told it
  arrived = new Map(); // ids that came by a stream of the inbox: each is shown and counted once
  touched = new Map(); // id -> revision of the last entry about it
  pending = new Map(); // key -> {ids (undefined: all), change, positions, revision} not confirmed yet
  count = 0; // unread, as the server counts
  countedTo = {}; // entries up to here are in `count` already
  early = []; // state entries about notifications not held: their own stream may bring them later
  revision = 0; // moves with each entry

  /** The server's own count, true at `positions`. */
  setCount(count, positions) {
    this.count = count;
    this.countedTo = { ...positions };
  }

  /** Begin again from a snapshot. */
  reset(newest, count, positions) {
    this.revision += 1;
    this.items.clear();
    this.arrived.clear();
    this.early = [];
    for (const item of [...newest].reverse()) {
      this.arrived.set(item.id, true);
      this.#keep(item);
    }
    this.setCount(count, positions);
  }

  /** A notification read by REST at `revision`: it yields to entries that came since, and is no news for the count. */
  put(item, revision) {
    if (this.touched.get(item.id) > revision) return;
    const old = this.items.get(item.id);
    if (old) this.count += isUnread(item) - isUnread(old);
    this.#keep({ ...old, ...item });
  }

  #keep(item) {
    this.items.set(item.id, { ...UNTOUCHED, ...item });
  }

  /** Nobody pages through what arrives unattended: of that the newest are kept. */
  #trim() {
    if (this.items.size > KEPT) {
      const [oldest] = [...this.items.values()].sort((a, b) => (a.created_at < b.created_at ? -1 : 1));
      this.items.delete(oldest.id);
    }
    for (const ids of [this.arrived, this.touched]) if (ids.size > 2 * KEPT) ids.delete(ids.keys().next().value);
    if (this.early.length > KEPT) this.early.shift();
  }

  /** One entry of a stream of the inbox. False when the count can not be told from what we hold. */
  apply(entry) {
    this.revision += 1;
    const counts = !covers(this.countedTo, entry);
    const { type, stream, seq, data } = entry;
    if (type === "notification") return this.#arrive({ ...data, stream, seq }, counts);
    const before = this.count;
    const ids = entry.notification_ids ?? [entry.notification_id ?? data?.id];
    const items = type === "read_all" ? this.#upTo(entry.positions) : ids.map((id) => this.items.get(id));
    const change = type === "updated" ? data : CHANGES[type]?.(entry);
    for (const id of ids) this.touched.set(id, this.revision);
    for (const item of items) {
      if (item && change) this.#change(item, change, counts);
      else if (item) this.#drop(item, counts); // recalled
    }
    if (type === "read_all" || !items.every(Boolean)) this.early.push({ ids, change, positions: entry.positions });
    this.#trim();
    const exact = items.every(Boolean) && type !== "read_all" && before < MANY;
    return exact || !counts || ["updated", "seen"].includes(type);
  }

  /** True: the count is exact. */
  #arrive(item, counts) {
    const known = this.items.get(item.id);
    const early = this.early.filter((one) => (one.positions ? covers(one.positions, item) : one.ids.includes(item.id)));
    const again = this.arrived.has(item.id);
    this.arrived.set(item.id, true);
    this.touched.set(item.id, this.revision);
    if (!known && early.some((one) => !one.change)) return true; // recalled before it came
    const merged = Object.assign({}, item, ...early.map((one) => one.change), known);
    this.#keep(merged);
    this.#trim();
    if (!again && counts) this.count += isUnread(merged);
    return true;
  }

  #upTo(positions) {
    return [...this.items.values()].filter((item) => isReadBy(positions, item));
  }

  #drop(item, counts) {
    this.items.delete(item.id);
    if (counts) this.count -= isUnread(item);
  }

  #change(item, change, counts) {
    const changed = { ...item, ...change };
    if (counts) this.count += isUnread(changed) - isUnread(item);
    this.items.set(item.id, changed);
  }

  /** It is `now`: what has expired goes, what was put off comes back. The time when the next one does, or Infinity. */
  tick(now) {
    let next = Infinity;
    for (const item of this.items.values()) {
      const ends = item.expires_at ? Date.parse(item.expires_at) : Infinity;
      const wakes = item.snoozed_until ? Date.parse(item.snoozed_until) : Infinity;
      if (ends <= now) this.#drop(item, true);
      else if (wakes <= now) this.#change(item, { snoozed_until: null }, true);
      else next = Math.min(next, ends, wakes);
    }
    return next;
  }

  /** Show `change` of some notifications (or of all up to `positions`) before the server has confirmed it. */
  expect(ids, change, positions) {
    const key = Symbol();
    this.pending.set(key, { ids, change, positions, revision: this.revision });
    return key;
  }

  /** Confirmed. An entry that came meanwhile has the last word: it is the echo of this or later than it. */
  confirm(key) {
    const { ids, change, positions, revision } = this.pending.get(key);
    const shown = this.unread;
    this.pending.delete(key);
    for (const item of ids ? ids.map((id) => this.items.get(id)) : this.#upTo(positions)) {
      if (item && !(this.touched.get(item.id) > revision)) this.#change(item, change, true);
    }
    if (!ids) this.count = shown;
  }

  /** The notification as the user should see it. */
  view(item) {
    let seen = item;
    for (const { ids, change, positions } of this.pending.values()) {
      if (ids ? ids.includes(item.id) : isReadBy(positions, item)) seen = { ...seen, ...change };
    }
    return seen;
  }

  /** Unread as the user should see it. */
  get unread() {
    let all = false;
    for (const { ids } of this.pending.values()) all ||= !ids;
    let count = all ? 0 : this.count; // after "all read" what is not held here is older than the positions
    for (const item of this.items.values()) count += isUnread(this.view(item)) - (all ? 0 : isUnread(item));
    return Math.max(0, count);
  }
}

/** Listeners by event type; "*" hears all. */
class Emitter {
  #listeners = new Map();

  on(type, listener, { signal } = {}) {
    const heard = this.#listeners.get(type) ?? new Set();
    this.#listeners.set(type, heard.add(listener));
    const off = () => void heard.delete(listener);
    if (signal?.aborted) off();
    signal?.addEventListener("abort", off, { once: true });
    return off;
  }

  emit(type, detail) {
    const event = { ...detail, type };
    for (const key of [type, "*"]) {
      for (const listener of [...(this.#listeners.get(key) ?? [])]) {
        try {
          listener(event);
        } catch (error) {
          queueMicrotask(() => { throw error; }); // the page's own error handling; other listeners go on
        }
      }
    }
  }

  /** The events as an async iterator that begins now. A reader 10,000 events behind is told `overflow`. */
  events({ types, signal } = {}) {
    const queue = [];
    const readers = [];
    let ended = false;
    const off = this.on("*", (event) => {
      if (types && !types.includes(event.type)) return;
      if (readers.length) return readers.shift()({ value: event, done: false });
      if (queue.length >= 10_000) queue.splice(0, Infinity, { type: "overflow" });
      queue.push(event);
    });
    const end = async () => {
      ended = true;
      off();
      for (const reader of readers.splice(0)) reader({ value: undefined, done: true });
      return { value: undefined, done: true };
    };
    if (signal?.aborted) end();
    signal?.addEventListener("abort", end, { once: true });
    return {
      next: async () => {
        if (queue.length) return { value: queue.shift(), done: false };
        return ended ? { value: undefined, done: true } : new Promise((resolve) => readers.push(resolve));
      },
      return: end,
      [Symbol.asyncIterator]() { return this; },
    };
  }

  [Symbol.asyncIterator]() { return this.events(); }
}

/** `promise`, or the signal's reason if that comes first. */
function abortable(promise, signal) {
  if (!signal) return promise;
  return new Promise((resolve, reject) => {
    const stop = () => reject(signal.reason);
    if (signal.aborted) stop();
    signal.addEventListener("abort", stop, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", stop));
  });
}

/** A promise and the means to settle it. Not awaiting it is fine: every outcome is told by an event too. */
function deferred() {
  const settle = {};
  const promise = new Promise((resolve, reject) => Object.assign(settle, { resolve, reject }));
  promise.catch(() => {});
  return { promise, ...settle };
}

class Hub extends Emitter {
  #options;
  #url;
  #state = { state: "closed", reason: "new" };
  #data = new InboxState();
  #shown = null; // the unread count last emitted
  #history = []; // what undo() can take back

  #wanted = null; // between connect() and the end: {promise, resolve, reject}
  #run = 0; // names the present attempt; whatever belongs to an older one is ignored
  #socket = null;
  #ticketAt = 0; // a ticket lives 30 s; one that slept through them in a closed laptop is no verdict on the token
  #welcomed = false;
  #token = null; // in memory only
  #fetching = null; // the getToken() under way
  #abort = new AbortController(); // of the present attempt
  #timers = {};
  #attempt = 0;
  #notBefore = 0; // performance.now() before which the server does not want to see us
  #heardAt = 0;
  #offPage = () => {};
  #skew = 0; // the server's clock minus ours, ms

  #epoch = null;
  #positions = {}; // stream -> last seq: everything up to there has been handed on
  #held = new Map(); // entries beyond a gap, by stream and seq
  #asked = {}; // the positions of the last resume
  #resuming = 0; // resumes sent in a row without becoming whole
  #followed = new Set(["user", "tenant"]); // streams whose entries belong to the inbox
  #told = new Set(); // ids of notifications that were emitted
  #unreported = 0;
  #reported = "";
  #commands = new Map(); // id -> command without a reply
  #subscriptions = new Map(); // channel -> Subscription
  #lastId = 0;
  #pushing = null; // push.js on its way or here

  constructor(options) {
    super();
    this.#options = { hiddenAfterMs: 600_000, timeoutMs: DEADLINE_MS, ...options };
    const { signal, url } = this.#options;
    this.#url = (path) => {
      const base = new URL(url || "/", globalThis.location?.href);
      base.protocol = base.protocol.replace("ws", "http");
      if (!base.pathname.endsWith("/")) base.pathname += "/";
      return new URL(path.slice(1), base);
    };
    signal?.addEventListener("abort", () => this.disconnect(), { once: true });

    const act = (name) => (id, options) => this.#act(name, [id].flat(), {}, options);
    this.inbox = {
      list: (query) => this.#list(query),
      get: (id, options) => this.#get(id, options),
      markRead: act("markRead"),
      markUnread: act("markUnread"),
      markSeen: act("markSeen"),
      archive: act("archive"),
      unarchive: act("unarchive"),
      snooze: (id, until, options) => this.#act("snooze", [id].flat(), { until: new Date(until).toISOString() }, options),
      markAllRead: (options) => this.#markAllRead(options),
      undo: (options) => this.#undo(options),
    };
    const items = () => this.#items();
    const unread = () => this.#data.unread;
    Object.defineProperties(this.inbox, { items: { get: items }, unread: { get: unread } });
    const topic = (...how) => (name, options) => this.#topic(name, ...how, options);
    this.topics = {
      follow: topic("follow_topic", "PUT", "follow"),
      unfollow: topic("unfollow_topic", "DELETE", "follow"),
      mute: topic("mute_topic", "PUT", "mute"),
      unmute: topic("unmute_topic", "DELETE", "mute"),
    };
    this.channels = { subscribe: (channel, options) => this.#subscribe(channel, options) };

    const push = (name) => (options) => this.#pusher().then((pusher) => pusher[name](options));
    this.push = { disable: push("disable"), status: push("status"), test: push("test") };
    this.push.enable = (options) => {
      const isClick = globalThis.navigator?.userActivation?.isActive !== false;
      const asked = isClick && globalThis.Notification?.requestPermission(); // now: a click does not last
      return push("enable")({ ...options, asked });
    };
    const digest = (name) => (...values) => import("./digest.js").then(({ Digest }) => new Digest(this)[name](...values));
    const names = ["get", "put", "preview", "nextRuns", "pending", "sendNow"];
    this.digest = Object.fromEntries(names.map((name) => [name, digest(name)]));
    try {
      if (localStorage["carillon.push"]) this.#pusher(); // enabled here
    } catch {} // no page, or one that may store nothing
  }

  /** Push is a file of its own, for those who use it. */
  #pusher() {
    const rest = (...request) => this.#rest(...request);
    this.#pushing ??= import("./push.js").then(({ Push }) => new Push(this, rest, this.#url, this.#options.push));
    this.#pushing.catch(() => (this.#pushing = null)); // whoever asked hears of it; the next one tries again
    return this.#pushing;
  }

  /** {state, reason, …}: connecting, open, recovering, offline or closed, and why. */
  get state() { return this.#state; }

  /** The server's time, ms since 1970, as well as it is known here. */
  now() { return Date.now() + this.#skew; }

  get #webSocket() { return this.#options.WebSocket ?? globalThis.WebSocket; }

  /** Where a notification leads, checked, or null. */
  link(notification) { return safeLink(notification.action_url, this.#options.linkOrigins); }

  /** Any other REST call as this person: JSON in, JSON out, HubError for the rest. */
  request(method, path, { body, signal } = {}) { return this.#rest(method, path, { body, signal }); }

  // -- Connection ---------------------------------------------------------------------------------

  /** Connect and stay connected. Settles with the first open, or with the reason why there will be none. */
  connect({ signal } = {}) {
    const stopped = [signal, this.#options.signal].find((one) => one?.aborted);
    if (stopped) return Promise.reject(stopped.reason);
    if (!this.#webSocket) return Promise.reject(new HubError("unsupported", "There is no WebSocket here."));
    signal?.addEventListener("abort", () => this.disconnect(), { once: true });
    if (!this.#wanted) {
      this.#wanted = deferred();
      this.#attempt = this.#notBefore = 0;
      this.#watchPage();
      this.#dial();
    }
    return abortable(this.#wanted.promise, signal);
  }

  /** Hang up and stay away. What is known stays; connect() goes on from there. */
  disconnect() {
    if (this.#wanted) this.#end("disconnected");
  }

  #end(reason, error) {
    this.#hangUp();
    this.#offPage();
    const wanted = this.#wanted;
    this.#wanted = this.#token = null;
    this.#set("closed", { reason, ...error });
    wanted.reject(new HubError(reason));
  }

  #set(state, detail = {}) {
    this.#state = { state, ...detail };
    this.emit("state", this.#state);
  }

  #after(name, delay, action) {
    clearTimeout(this.#timers[name]);
    this.#timers[name] = setTimeout(action, delay);
  }

  async #dial() {
    this.#hangUp();
    const run = this.#run;
    this.#set("connecting", { reason: this.#epoch ? "reconnect" : "connect" });
    this.#after("welcome", this.#options.timeoutMs * 2, () => this.#lost({ reason: "timeout" }));
    try {
      const { signal } = this.#abort;
      const { ticket } = await this.#rest("POST", "/api/v1/ws/ticket", { signal });
      if (run !== this.#run) return;
      this.#ticketAt = Date.now();
      const url = this.#url("/ws/notify");
      url.protocol = url.protocol.replace("http", "ws");
      url.searchParams.set("ticket", ticket);
      const socket = (this.#socket = new this.#webSocket(url));
      socket.onmessage = ({ data }) => run === this.#run && this.#receive(data);
      socket.onclose = ({ code }) => run === this.#run && this.#lost({ code });
    } catch (error) {
      if (run !== this.#run) return;
      if (error.status === 401 || error.status === 403) this.#end(error.code);
      else this.#lost({ reason: error.code ?? "network", retryAfterMs: error.retryAfterMs });
    }
  }

  /** The link is gone, or as good as gone: come back, unless the code says that it is no use. */
  #lost({ code, reason = CLOSE[code] ?? "network", retryAfterMs = 0 }) {
    const hint = Math.max(retryAfterMs, this.#notBefore - performance.now());
    const tooLate = code === 4401 && !this.#welcomed && Date.now() - this.#ticketAt > 20_000;
    if (isFinal(code) && !tooLate) return this.#end(reason, { code });
    if (needsToken(code)) this.#token = null;
    const delay = hint + backoff(this.#attempt++);
    this.#hangUp();
    this.#notBefore = performance.now() + hint;
    this.#set("offline", { reason, code, retryInMs: Math.round(delay) });
    this.#after("retry", delay, () => this.#dial());
  }

  /** Drop the socket without a word to anybody; a dead one may take minutes to close by itself. */
  #hangUp() {
    this.#run += 1;
    this.#abort.abort(new HubError("offline"));
    this.#abort = new AbortController();
    for (const timer of Object.values(this.#timers)) clearTimeout(timer);
    this.#socket?.close();
    this.#socket = null;
    this.#welcomed = false;
    this.#resuming = 0;
    this.#held.clear();
    const unanswered = [...this.#commands.values()];
    this.#commands.clear();
    for (const command of unanswered) command.fail(new HubError("offline"));
  }

  /** The page came back, or the network did: do not wait longer than the server asked for. */
  #wake() {
    const isPaused = this.#state.reason === "hidden" && document.visibilityState === "hidden";
    if (this.#welcomed) this.#probe();
    else if (!isPaused && this.#state.state === "offline") {
      this.#after("retry", Math.max(0, this.#notBefore - performance.now()), () => this.#dial());
    }
  }

  #watchPage() {
    const page = globalThis.document;
    if (!page?.addEventListener) return;
    const stop = new AbortController();
    const listen = (target, type, react) => target.addEventListener(type, react, { signal: stop.signal });
    let hidden;
    const { hiddenAfterMs } = this.#options;
    const pause = () => {
      this.#hangUp();
      this.#set("offline", { reason: "hidden" });
    };
    const look = () => {
      clearTimeout(hidden);
      this.#tellPresence();
      if (page.visibilityState !== "hidden") this.#wake();
      else if (hiddenAfterMs) hidden = setTimeout(pause, hiddenAfterMs);
    };
    listen(page, "visibilitychange", look);
    listen(globalThis, "online", () => this.#wake());
    listen(globalThis, "offline", () => this.#welcomed && this.#probe());
    listen(globalThis, "pageshow", (event) => event.persisted && this.#wake());
    this.#offPage = () => {
      clearTimeout(hidden);
      stop.abort();
    };
    look();
  }

  #tellPresence() {
    const page = globalThis.document;
    if (page && this.#welcomed) this.#send({ type: "presence", visible: page.visibilityState !== "hidden" });
  }

  // -- What the server says -----------------------------------------------------------------------

  #receive(text) {
    this.#heardAt = performance.now();
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return this.#lost({ reason: "bad_frame" });
    }
    const react = this.#reactions[message.type];
    if (react) react(message);
    else if (message.seq !== undefined) this.#entry(message);
  }

  #reactions = {
    welcome: (message) => this.#welcome(message),
    ack: (message) => this.#settle(message),
    subscribed: (message) => this.#settle(message),
    unsubscribed: (message) => this.#settle(message),
    refreshed: (message) => this.#settle(message),
    error: (message) => this.#settle(message),
    pong: () => {}, // hearing it was enough
    resumed: (message) => this.#resumed(message),
    resync: (message) => this.#resync(message),
    position: ({ stream, seq }) => {
      this.#positions[stream] = Math.max(seq, this.#positions[stream] ?? 0);
      this.#release(stream);
    },
    message: (message) => {
      this.emit("message", message);
      this.#subscriptions.get(message.channel)?.emit("message", message);
    },
    presence: (message) => this.emit("presence", message),
    token_expiring: () => this.#refresh(),
    reconnect: ({ after_ms = 0 }) => {
      const delay = after_ms + Math.random() * 1_000;
      this.#notBefore = performance.now() + delay;
      this.#after("move", delay, () => this.#dial());
    },
  };

  #welcome(message) {
    clearTimeout(this.#timers.welcome);
    this.#welcomed = true;
    this.#after("stable", STABLE_MS, () => (this.#attempt = 0));
    this.#listenForSilence(message.heartbeat_ms || 25_000);
    const { epoch, positions, unread_count } = message;
    this.#data.setCount(unread_count, positions);
    this.#followed = new Set(Object.keys(positions));
    const known = this.#positions;
    const again = this.#epoch !== null;
    const whole = epoch === this.#epoch && Object.keys(positions).every((name) => known[name] === positions[name]);
    this.emit("welcome", message);
    if (!again) {
      this.#epoch = epoch;
      this.#positions = { ...positions };
    }
    if (again && !whole) this.#resume("reconnect", Object.keys(positions).filter((name) => name in known));
    else this.#opened();
    for (const subscription of this.#subscriptions.values()) subscription.renew();
    this.#tellPresence();
    this.#changed();
  }

  #opened() {
    this.#resuming = 0;
    clearTimeout(this.#timers.resume);
    if (this.#state.state !== "open") this.#set("open");
    this.#wanted.resolve(this);
  }

  #resume(reason, streams = Object.keys(this.#positions)) {
    if (++this.#resuming > 3) return this.#lost({ reason: "gap" });
    this.#set("recovering", { reason });
    const positions = (this.#asked = Object.fromEntries(streams.map((name) => [name, this.#positions[name]])));
    this.#send({ type: "resume", id: "resume", epoch: this.#epoch, positions });
    this.#after("resume", this.#options.timeoutMs, () => this.#lost({ reason: "timeout" }));
  }

  /** Everything up to `positions` has been sent. What was not recovered is a gap, and the list is read anew. */
  #resumed({ positions = {}, recovered }) {
    const strange = Object.keys(positions).some((name) => !(name in this.#asked)); // followed while we were away
    for (const [name, seq] of Object.entries(positions)) {
      this.#positions[name] = Math.max(seq, this.#positions[name] ?? 0);
    }
    const tries = this.#resuming;
    this.#resuming = 0;
    for (const name of [...this.#held.keys()]) this.#release(name);
    if (this.#held.size) {
      this.#resuming = tries;
      return this.#resume("gap");
    }
    if (recovered === false) this.emit("gap", { recovered: false });
    this.#opened();
    if (strange || recovered === false) this.#list().catch((error) => this.emit("error", { error }));
  }

  #resync({ epoch, positions, unread_count, newest }) {
    this.#epoch = epoch;
    this.#positions = { ...positions };
    this.#held.clear();
    this.#data.reset(newest ?? [], unread_count, positions);
    this.emit("resync", { unread: unread_count, items: this.#items() });
    for (const one of this.#subscriptions.values()) one.emit("gap", { recovered: false });
    this.#opened();
    this.#changed();
  }

  #entry(entry) {
    const { stream, seq } = entry;
    const verdict = judge(this.#positions[stream], seq);
    if (verdict === "old") return;
    if (verdict === "gap" && !this.#isFiltered(stream)) return this.#hold(entry);
    this.#positions[stream] = seq;
    this.#hand(entry);
    this.#release(stream);
    if (++this.#unreported >= RECEIPT_ENTRIES) this.#report();
    else if (this.#unreported === 1) this.#after("report", RECEIPT_MS, () => this.#report());
  }

  /** Only the server judges the continuity of a channel that it filters. */
  #isFiltered(stream) {
    return !this.#followed.has(stream) && this.#subscriptions.get(stream.slice(6))?.isFiltered;
  }

  #hold(entry) {
    const { stream, seq } = entry;
    const held = this.#held.get(stream) ?? new Map();
    this.#held.set(stream, held.set(seq, entry));
    if (this.#resuming) return;
    this.emit("gap", { stream, after: this.#positions[stream], before: seq });
    this.#resume("gap");
  }

  /** Hand on what was held, as far as it follows without a hole. */
  #release(stream) {
    const held = this.#held.get(stream);
    for (const seq of [...(held?.keys() ?? [])].sort((a, b) => a - b)) {
      const verdict = judge(this.#positions[stream], seq);
      if (verdict === "gap") return;
      const entry = held.get(seq);
      held.delete(seq);
      if (verdict === "next") {
        this.#positions[stream] = seq;
        this.#hand(entry);
      }
    }
    this.#held.delete(stream);
  }

  /** An entry in its turn: into the inbox, if it is of a stream of the inbox, and to whoever listens. */
  #hand(entry) {
    const { type, stream, data } = entry;
    const subscription = this.#subscriptions.get(stream.slice(6));
    const isNew = type !== "notification" || !this.#told.has(data.id);
    const isOurs = this.#followed.has(stream);
    const topic = `topic:${entry.topic}`;
    if (type === "followed" || type === "unmuted") {
      this.#followed.add(topic);
      this.#positions[topic] ??= entry.joined_seq;
    } else if (type === "unfollowed" || type === "muted") {
      this.#followed.delete(topic);
      if (!this.#subscriptions.has(entry.topic)) delete this.#positions[topic];
    }
    if (type === "notification") {
      this.#skew = Math.max(this.#skew, Date.parse(entry.timestamp) - Date.now() || 0); // it is not from the future
      this.#told.add(data.id);
      if (this.#told.size > KEPT) this.#told.delete(this.#told.values().next().value);
    }
    if (isOurs && KINDS.has(type)) {
      if (!this.#data.apply(entry)) this.#doubtCount();
    } else if (isOurs) this.#doubtCount(); // another set of topics: another count
    subscription?.emit(type, { ...entry, notification: data });
    if (isNew) this.emit(type, { ...entry, notification: data });
    if (isOurs) this.#changed();
  }

  #report() {
    this.#unreported = 0;
    const positions = JSON.stringify(this.#positions);
    if (!this.#welcomed || positions === this.#reported) return;
    this.#reported = positions;
    this.#send({ type: "received", positions: this.#positions });
  }

  // -- A dead link is silent ----------------------------------------------------------------------

  #listenForSilence(heartbeatMs) {
    const check = () => {
      const silent = performance.now() - this.#heardAt;
      if (silent >= heartbeatMs) this.#probe();
      this.#after("silence", silent >= heartbeatMs ? heartbeatMs : heartbeatMs - silent, check);
    };
    this.#after("silence", heartbeatMs, check);
  }

  /** Ask for a sign of life; without one the link is dropped. */
  #probe() {
    const asked = performance.now();
    this.#send({ type: "ping", timestamp: new Date().toISOString() });
    this.#after("probe", DEADLINE_MS, () => this.#heardAt < asked && this.#lost({ reason: "silent" }));
  }

  // -- Commands -----------------------------------------------------------------------------------

  #send(message) {
    this.#socket.send(JSON.stringify(message));
  }

  /** Send, and wait for the reply. `rest` does the same by REST while the socket is down. */
  #command(message, rest) {
    if (!this.#welcomed) return rest ? rest() : Promise.reject(new HubError("offline", "There is no connection."));
    return new Promise((resolve, reject) => {
      const id = `c${++this.#lastId}`;
      const send = () => this.#commands.has(id) && this.#send({ ...message, id });
      const fail = (error) => (rest ? rest().then(resolve, reject) : reject(error));
      const late = () => this.#commands.delete(id) && fail(new HubError("timeout"));
      const timer = setTimeout(late, this.#options.timeoutMs);
      const end = (action) => (value) => {
        clearTimeout(timer);
        action(value);
      };
      this.#commands.set(id, { resolve: end(resolve), reject: end(reject), fail: end(fail), send, rest });
      send();
    });
  }

  #settle(reply) {
    const command = this.#commands.get(reply.id);
    if (reply.type !== "error") {
      this.#commands.delete(reply.id);
      return command?.resolve(reply);
    }
    const { code, message, retry_after_ms: retryAfterMs = 0 } = reply;
    if (reply.id === "resume") return this.#lost({ reason: code, retryAfterMs });
    const error = new HubError(code, message, { retryAfterMs });
    this.#commands.delete(reply.id);
    if (command) return command.reject(error);
    this.#notBefore = Math.max(this.#notBefore, performance.now() + retryAfterMs); // a close may follow
    if (code === "rate_limited") { // it was not even read: who was it? What changes a state may be said twice
      for (const waiting of this.#commands.values()) if (waiting.rest) setTimeout(waiting.send, retryAfterMs + 50);
    }
    this.emit("error", { error });
  }

  async #getToken(refresh) {
    if (this.#token && !refresh) return this.#token;
    this.#fetching ??= Promise.resolve(this.#options.getToken({ refresh })).finally(() => (this.#fetching = null));
    this.#token = await this.#fetching.catch((cause) => {
      throw new HubError("no_token", cause?.message, { cause }); // perhaps next time
    });
    if (!this.#token) throw new HubError("signed_out", "There is no token.", { status: 401 });
    return this.#token;
  }

  /** One REST call: JSON in, JSON out, HubError for the rest. A refused token is replaced once. */
  async #rest(method, path, { body, signal, retried = false } = {}) {
    const token = await abortable(this.#getToken(retried), signal);
    const headers = { authorization: `Bearer ${token}`, accept: "application/json" };
    if (body) headers["content-type"] = "application/json";
    const stop = new AbortController();
    const timer = setTimeout(() => stop.abort(new HubError("timeout")), this.#options.timeoutMs);
    const give = () => stop.abort(signal.reason);
    signal?.addEventListener("abort", give, { once: true });
    const send = this.#options.fetch ?? globalThis.fetch;
    const request = { method, headers, body: body && JSON.stringify(body), credentials: "omit", cache: "no-store" };
    let answer;
    let value;
    try {
      answer = await send(this.#url(path), { ...request, signal: stop.signal });
      value = await answer.text();
    } catch (cause) {
      throw stop.signal.aborted ? stop.signal.reason : new HubError("network", cause.message, { cause });
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", give);
    }
    if (answer.status === 401 && !retried) return this.#rest(method, path, { body, signal, retried: true });
    this.#skew = Date.parse(answer.headers.get("date")) - Date.now() || this.#skew;
    const isJson = /\bjson\b/.test(answer.headers.get("content-type"));
    value = isJson && value ? JSON.parse(value) : {};
    if (answer.ok) return value;
    const { error = { 401: "unauthorized", 403: "forbidden" }[answer.status] ?? "refused", detail, title, details } = value;
    const retryAfterMs = Number(answer.headers.get("retry-after")) * 1_000 || 0;
    throw new HubError(error, detail ?? title, { status: answer.status, retryAfterMs, details });
  }

  async #refresh() {
    try {
      const token = await this.#getToken(true);
      await this.#command({ type: "refresh", token });
    } catch (error) {
      this.emit("error", { error }); // the server will close with 4410, and we come back with a new token
    }
  }

  // -- Inbox --------------------------------------------------------------------------------------

  /** Not archived, not snoozed, not expired, newest first. */
  #items() {
    this.#data.tick(this.now());
    return [...this.#data.items.values()]
      .map((item) => this.#data.view(item))
      .filter((item) => !item.archived && !item.snoozed_until)
      .sort((a, b) => Date.parse(b.created_at) - Date.parse(a.created_at) || (a.id < b.id ? 1 : -1));
  }

  #changed() {
    const wait = this.#data.tick(this.now()) - this.now();
    if (wait < Infinity) this.#after("tick", Math.min(wait, 86_400_000), () => this.#changed());
    this.emit("inbox", {});
    const { unread } = this.#data;
    if (unread === this.#shown) return;
    this.#shown = unread;
    this.emit("count", { unread });
  }

  /** Something changed that we do not hold: ask for the count, soon but not all clients at once. */
  #doubtCount() {
    this.#after("count", 300 + Math.random() * 1_500, async () => {
      const { revision } = this.#data;
      try {
        const { signal } = this.#abort;
        const { unread, positions } = await this.#rest("GET", "/api/v1/notifications/counts", { signal });
        if (revision !== this.#data.revision || this.#resuming) return this.#doubtCount();
        this.#data.setCount(unread, positions ?? this.#data.countedTo);
        this.#changed();
      } catch (error) {
        if (this.#welcomed) this.emit("error", { error });
      }
    });
  }

  async #list({ signal, ...query } = {}) {
    const { revision } = this.#data;
    const asked = Object.entries(query).flatMap(([name, value]) => [value ?? []].flat().map((one) => [name, one]));
    const path = `/api/v1/notifications?${new URLSearchParams(asked)}`;
    const { notifications, next_cursor, unread_count } = await this.#rest("GET", path, { signal });
    for (const item of notifications) this.#data.put(item, revision);
    if (!this.#welcomed && !this.#epoch) this.#data.count = unread_count;
    this.#changed();
    return { items: notifications.map((item) => this.#data.view(item)), nextCursor: next_cursor, unread: this.#data.unread };
  }

  async #get(id, { signal } = {}) {
    const held = this.#data.items.get(id);
    if (held) return this.#data.view(held);
    const { revision } = this.#data;
    const item = await this.#rest("GET", `/api/v1/notifications/${encodeURIComponent(id)}`, { signal });
    this.#data.put(item, revision);
    return item;
  }

  /** Shown at once, confirmed or taken back when the server has answered. */
  async #optimistic(ids, change, positions, perform) {
    const key = this.#data.expect(ids, change, positions);
    this.#changed();
    try {
      const reply = await perform();
      this.#data.confirm(key);
      if (typeof reply.unread_count === "number" && reply.unread_count !== this.#data.count) {
        this.#data.count = reply.unread_count;
        this.#doubtCount();
      }
    } finally {
      this.#data.pending.delete(key);
      this.#changed();
    }
  }

  #act(name, ids, extra = {}, { signal, undoing = false } = {}) {
    if (signal?.aborted) return Promise.reject(signal.reason);
    const [type, kind, inverse] = ACTIONS[name];
    const change = CHANGES[kind](extra);
    const [member] = Object.keys(change);
    const before = (id) => this.#data.view(this.#data.items.get(id) ?? {})[member];
    const changed = ids.filter((id) => !before(id) !== !change[member]);
    const perform = async () => {
      let reply = {};
      for (let start = 0; start < ids.length; start += AT_ONCE) {
        const some = ids.slice(start, start + AT_ONCE);
        const what = some.length > 1 ? { notification_ids: some } : { notification_id: some[0] };
        const body = { change: kind, notification_ids: some, ...extra };
        const rest = () => this.#rest("POST", "/api/v1/notifications/bulk", { body });
        reply = await this.#command({ type, ...what, ...extra }, rest);
      }
      return reply;
    };
    const done = this.#optimistic(ids, change, undefined, perform).then(() => {
      if (inverse && !undoing && changed.length) this.#remember(inverse, changed);
    });
    return abortable(done, signal);
  }

  #markAllRead({ signal } = {}) {
    if (signal?.aborted) return Promise.reject(signal.reason);
    const positions = Object.fromEntries([...this.#followed].map((name) => [name, this.#positions[name] ?? 0]));
    const body = this.#epoch ? { positions } : {};
    const covered = [...this.#data.items.values()].filter((item) => isUnread(item) && covers(positions, item));
    const perform = () =>
      this.#command({ type: "mark_all_read", ...body }, () =>
        this.#rest("POST", "/api/v1/notifications/read-all", { body }),
      );
    const done = this.#optimistic(undefined, CHANGES.read_all(), positions, perform).then(() => {
      if (covered.length) this.#remember("markUnread", covered.map((item) => item.id));
    });
    return abortable(done, signal);
  }

  #remember(inverse, ids) {
    this.#history.push([inverse, ids]);
    if (this.#history.length > 20) this.#history.shift();
  }

  /** Take back the last change of state that can be taken back. False when there is none. */
  async #undo(options = {}) {
    const last = this.#history.pop();
    if (!last) return false;
    await this.#act(last[0], last[1], {}, { ...options, undoing: true });
    return true;
  }

  // -- Topics and channels ------------------------------------------------------------------------

  #topic(topic, type, method, part, { signal } = {}) {
    if (signal?.aborted) return Promise.reject(signal.reason);
    const rest = () => this.#rest(method, `/api/v1/topics/${encodeURIComponent(topic)}/${part}`);
    return abortable(this.#command({ type, topic }, rest).then(() => {}), signal);
  }

  /** Listen to a channel for as long as wanted, over reconnects. Rejects where it is not allowed. */
  async #subscribe(channel, { types, minPriority, signal } = {}) {
    signal?.throwIfAborted();
    if (this.#subscriptions.has(channel)) throw new HubError("conflict", `Already subscribed to ${channel}.`);
    const stream = `topic:${channel}`;
    const subscription = new Subscription(channel, Boolean(types || minPriority), {
      ask: async () => {
        const since = this.#epoch && stream in this.#positions && { epoch: this.#epoch, since: this.#positions[stream] };
        const wish = { channel, types, min_priority: minPriority };
        const reply = await this.#command({ type: "subscribe_channel", ...wish, ...since });
        const isWhole = since && reply.recovered !== false;
        if (!isWhole || this.#isFiltered(stream)) this.#positions[stream] = reply.seq;
        if (since && !isWhole) for (const one of [this, subscription]) one.emit("gap", { stream, recovered: false });
      },
      leave: async () => {
        this.#subscriptions.delete(channel);
        if (!this.#followed.has(stream)) delete this.#positions[stream];
        if (this.#welcomed) await this.#command({ type: "unsubscribe_channel", channel });
      },
    });
    this.#subscriptions.set(channel, subscription);
    signal?.addEventListener("abort", () => subscription.unsubscribe(), { once: true });
    if (this.#welcomed) subscription.renew();
    return abortable(subscription.ready, signal);
  }

  /** An ephemeral message to whoever listens now: at most once, and only while connected. */
  publish(channel, data, { signal } = {}) {
    if (signal?.aborted) return Promise.reject(signal.reason);
    return abortable(this.#command({ type: "publish", channel, data }).then(() => {}), signal);
  }
}

/** Listening to one channel: emits its notifications, messages and gaps. */
class Subscription extends Emitter {
  #wire;
  #ready = deferred();

  constructor(channel, isFiltered, wire) {
    super();
    Object.assign(this, { channel, isFiltered });
    this.#wire = wire;
  }

  /** Settles with the first `subscribed`, or with the reason why there will be none. */
  get ready() { return this.#ready.promise; }

  /** Each connection must be told anew. */
  async renew() {
    try {
      await this.#wire.ask();
      this.#ready.resolve(this);
    } catch (error) {
      if (["offline", "timeout"].includes(error.code)) return; // the next connection asks again
      this.#ready.reject(error);
      this.emit("error", { error });
      await this.unsubscribe();
    }
  }

  async unsubscribe() {
    try {
      await this.#wire.leave();
    } catch (error) {
      this.emit("error", { error }); // it ends with the connection anyway
    }
  }
}

/** A hub that is not connected yet. Options: client.d.ts. */
export function createHub(options) {
  if (typeof options?.getToken !== "function") throw new TypeError("createHub needs getToken: () => token");
  return new Hub(options);
}
