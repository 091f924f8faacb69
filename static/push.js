/**
 * Web Push for client.js, which loads it when it is needed: enable, disable, status and test, and what keeps a
 * subscription alive. The worker is sw.js, the types are in client.d.ts, how it all fits together is docs/push.md.
 */

import { HubError } from "./client.js";

const KEPT = "carillon.push"; // in localStorage: {id}, as long as push is wanted in this browser
const READS = ["read", "archived", "snoozed", "recalled"];

/** Why it can not be enabled here and what a person can do about it. Pages with their own words go by the reason. */
const REASONS = {
  insecure: "Push needs a page that came by https.",
  needs_home_screen: "Add this page to the home screen (Share, then Add to Home Screen) and open it from there.",
  unsupported: "This browser has no push.",
  needs_worker: "The hub is another site: name a worker of this one that imports its sw.js.",
  denied: "Notifications are blocked for this site. The browser's site settings can allow them.",
  dismissed: "The question was not answered.",
  no_gesture: "Only a click may ask for permission.",
};

const encoded = (buffer) =>
  btoa(String.fromCharCode(...new Uint8Array(buffer)))
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .replaceAll("=", "");

const keyOf = (subscription, name) => encoded(subscription.getKey(name));

/**
 * Pages may demand that scripts are named by a policy (Trusted Types); "carillon-push" is ours, for files of the page's
 * own site. There is one of a name, so copies of this file that came from different addresses share it.
 */
function trusted(url) {
  const shared = Symbol.for("carillon-push");
  const createScriptURL = (text) => {
    if (new URL(text, location.href).origin === location.origin) return text;
    throw new TypeError("A worker is a file of the page's own site.");
  };
  try {
    globalThis[shared] ??= globalThis.trustedTypes?.createPolicy("carillon-push", { createScriptURL });
  } catch {} // the page allows other policies only; where it also demands one, registering says so
  return globalThis[shared]?.createScriptURL(url) ?? url;
}

/** An iPhone or an iPad, which calls itself a Mac with fingers. */
const isIos = () =>
  /iPhone|iPad|iPod/.test(navigator.userAgent) || (/Macintosh/.test(navigator.userAgent) && navigator.maxTouchPoints > 1);

/** A guess, for the list of one's devices. */
function device() {
  const { userAgent } = navigator;
  const found = /(Edg|OPR|SamsungBrowser|Firefox|FxiOS|CriOS|Chrome|Safari)/.exec(
    userAgent.replace(/Chrome\/\S+ (.*)(Edg|OPR)/, "$1$2").replace(/Chrome(.*SamsungBrowser)/, "$1"),
  )?.[1];
  const names = { Edg: "Edge", OPR: "Opera", SamsungBrowser: "Samsung Internet", FxiOS: "Firefox", CriOS: "Chrome" };
  const platform = navigator.userAgentData?.platform || (isIos() ? "iOS" : navigator.platform);
  return { platform, browser: names[found] ?? found ?? "unknown" };
}

export class Push {
  #hub;
  #rest;
  #url;
  #options;
  #last = Promise.resolve(); // one change at a time

  /** rest: the hub's #rest; url: its #url; options: HubOptions.push. */
  constructor(hub, rest, url, options = {}) {
    this.#hub = hub;
    this.#rest = rest;
    this.#url = url;
    this.#options = options;
    const { serviceWorker } = globalThis.navigator ?? {};
    if (!serviceWorker) return;
    const start = () => this.#later(() => this.#start());
    const end = () => this.#later(() => this.#signedOut());
    hub.on("welcome", start);
    hub.on("state", ({ reason }) => reason === "signed_out" && end());
    hub.on("count", ({ unread }) => this.#kept && this.#badge(unread));
    for (const type of READS) hub.on(type, (event) => this.#tell(event.notification_ids ?? [event.notification_id]));
    hub.on("read_all", () => this.#readAll());
    serviceWorker.addEventListener("message", (event) => {
      if (event.data?.carillon === "renewed") start(); // it goes by another id now
      else this.#asked(event);
    });
    serviceWorker.startMessages?.();
    if (["open", "recovering"].includes(hub.state.state)) start();
    if (hub.state.reason === "signed_out") end();
  }

  // -- What a page calls ----------------------------------------------------------------------------

  /** {state, reason, permission, id, message}, when what is changing it is over. */
  status() {
    return this.#inTurn(() => this.#status());
  }

  async #status() {
    const permission = globalThis.Notification?.permission ?? "default";
    const about = (state, reason) => {
      return { state, reason, permission, id: this.#kept?.id ?? null, message: REASONS[reason] ?? null };
    };
    const obstacle = this.#obstacle();
    if (obstacle) return about("unavailable", obstacle);
    const subscription = await this.#subscription();
    if (permission === "denied") return about("unavailable", "denied");
    if (!this.#kept) return about("off", "not_enabled");
    if (!this.#kept.id) return about("off", "signed_out");
    if (!subscription || permission !== "granted") return about("off", "lost");
    if (!(await this.#isCurrent(subscription))) return about("off", "key_changed");
    return about("on", null);
  }

  /** Turn it on for whoever is signed in. asked: the answer to the question for permission, where one was asked. */
  enable({ name, asked } = {}) {
    return this.#inTurn(async () => {
      const obstacle = this.#obstacle();
      if (obstacle) throw this.#refusal(obstacle);
      const answer = (await asked) || Notification.permission;
      if (answer !== "granted") throw this.#refusal({ denied: "denied" }[answer] ?? (asked ? "dismissed" : "no_gesture"));
      const registration = await this.#register();
      await this.#link(registration, name);
      return this.#changed();
    });
  }

  /**
   * Turn it off in this browser: the hub forgets it, so does the push service, and what is shown goes. To be called
   * before a logout.
   */
  disable() {
    return this.#inTurn(async () => {
      const id = this.#kept?.id;
      const subscription = this.#obstacle() ? null : await this.#subscription();
      this.#keep(null);
      await subscription?.unsubscribe(); // were the hub not to hear of it, the push service tells it: 410
      await this.#clear();
      if (id) {
        await this.#rest("DELETE", `/api/v1/push/subscriptions/${id}`).catch((error) => {
          if (error.status !== 404) throw error;
        });
      }
      return this.#changed();
    });
  }

  /** Send a notification to this browser alone. */
  async test() {
    const id = this.#kept?.id;
    if (!id) throw new HubError("not_enabled", "Push is not enabled in this browser.");
    return this.#rest("POST", `/api/v1/push/subscriptions/${id}/test`);
  }

  // -- Keeping it alive -----------------------------------------------------------------------------

  /** At every start: what the browser dropped is made again, what was made with an old key too, and the hub hears of it. */
  async #start() {
    if (!this.#kept || this.#obstacle() || Notification.permission !== "granted") return;
    const registration = (await this.#registration()) ?? (await this.#register());
    await this.#link(registration);
    await this.#changed();
  }

  /** The next person at this browser is not to see what comes for this one. Their own start subscribes again. */
  async #signedOut() {
    if (!this.#kept || this.#obstacle()) return;
    this.#keep({ id: null });
    await (await this.#subscription())?.unsubscribe();
    await this.#clear();
    await this.#changed();
  }

  /** A subscription made with this key. One made with an older key is replaced, at the hub too. */
  async #subscribe(registration, key) {
    let subscription = await registration.pushManager.getSubscription();
    let old = null;
    if (subscription && !this.#isMadeWith(subscription, key)) {
      old = { old_endpoint: subscription.endpoint, old_auth_key: keyOf(subscription, "auth") };
      await subscription.unsubscribe();
      subscription = null;
    }
    subscription ??= await registration.pushManager
      .subscribe({ userVisibleOnly: true, applicationServerKey: key })
      .catch((cause) => {
        throw new HubError(cause.name === "NotAllowedError" ? "denied" : "push_service", cause.message, { cause });
      });
    if (old) {
      await this.#rest("POST", "/api/v1/push/replace", { body: { ...old, ...this.#body(subscription) } }).catch(
        (error) => { if (!error.status) throw error; }, // what the hub has not known needs no replacing
      );
    }
    return subscription;
  }

  #body(subscription) {
    const { endpoint } = subscription;
    return { endpoint, p256dh_key: keyOf(subscription, "p256dh"), auth_key: keyOf(subscription, "auth") };
  }

  /** Subscribe and tell the hub. It may be told again and again; a browser that was another person's becomes this one's. */
  async #link(registration, name) {
    const { public_key: key, key_id: vapid_key_id } = await this.#key();
    const subscription = await this.#subscribe(registration, key);
    const { expirationTime } = subscription;
    const body = {
      ...this.#body(subscription),
      user_agent: navigator.userAgent.slice(0, 500),
      device_info: device(),
      vapid_key_id,
      expires_at: expirationTime ? new Date(expirationTime).toISOString() : null,
    };
    const { id } = await this.#rest("POST", "/api/v1/push/subscribe", { body });
    this.#keep({ id });
    if (name) await this.#rest("PATCH", `/api/v1/push/subscriptions/${id}`, { body: { name } });
  }

  #key() {
    return this.#rest("GET", "/api/v1/push/vapid-public-key");
  }

  /** The key is not known offline; then nothing has changed as far as anybody can tell. */
  async #isCurrent(subscription) {
    const answer = await this.#key().catch(() => null);
    return !answer || this.#isMadeWith(subscription, answer.public_key);
  }

  #isMadeWith(subscription, key) {
    const made = subscription.options?.applicationServerKey;
    return !made || encoded(made) === key.replace(/=+$/, "");
  }

  // -- The worker -----------------------------------------------------------------------------------

  get #worker() { return String(this.#options.worker ?? this.#url("/sw.js")); }

  /** Of its own, below our worker: it controls no page, so it is in nobody's way. */
  get #scope() {
    const { scope, worker } = this.#options;
    return new URL(scope ?? (worker ? "./" : "carillon-push/"), new URL(this.#worker, location.href)).href;
  }

  async #registration() {
    if (this.#options.registration) return this.#options.registration;
    const found = await navigator.serviceWorker.getRegistration(this.#scope);
    return found?.scope === this.#scope ? found : null;
  }

  async #subscription() {
    return (await this.#registration())?.pushManager.getSubscription() ?? null;
  }

  /** Registered and active: only an active worker can subscribe. */
  async #register() {
    const given = await this.#options.registration;
    const how = { scope: this.#scope, type: this.#options.workerType ?? "classic", updateViaCache: "none" };
    const registration = given ?? (await navigator.serviceWorker.register(trusted(this.#worker), how));
    const worker = registration.installing ?? registration.waiting;
    if (!registration.active && worker) {
      await new Promise((resolve, reject) => {
        worker.addEventListener("statechange", () => {
          if (worker.state === "activated") resolve();
          if (worker.state === "redundant") reject(new HubError("worker_failed", "The push worker did not start."));
        });
      });
    }
    return registration;
  }

  /** Close what was read elsewhere; ids null: all. */
  async #tell(ids) {
    if (this.#kept) await this.#close(ids);
  }

  async #close(ids) {
    if (this.#obstacle()) return;
    const registration = await this.#registration();
    const unread = this.#hub.inbox.unread;
    registration?.active?.postMessage({ carillon: "read", ids, unread: ids ? unread : 0 });
  }

  /** Nothing of it is left on the screen. */
  async #clear() {
    await this.#close(null);
    await this.#badge(0);
  }

  async #readAll() {
    const { items, unread } = this.#hub.inbox;
    await this.#tell(unread ? items.filter((item) => item.read).map((item) => item.id) : null);
  }

  async #badge(unread) {
    if (unread) await navigator.setAppBadge?.(unread).catch(() => {}); // not installed: there is no icon to mark
    else await navigator.clearAppBadge?.().catch(() => {});
  }

  /** The worker looks for a page that shows what was clicked, and then sends us there. */
  #asked({ data, ports }) {
    if (data?.carillon === "ask") ports[0].postMessage(document.visibilityState !== "prerender");
    if (data?.carillon !== "open") return;
    const { url, notification_id, action } = data;
    this.#hub.emit("open", { url, notification_id, action });
    if (this.#options.open) this.#options.open(url, { notification_id, action });
    else location.assign(url);
  }

  // -- Besides --------------------------------------------------------------------------------------

  /** Why push can not be had here, whatever the person wants, or null. */
  #obstacle() {
    if (globalThis.isSecureContext === false) return "insecure";
    const here = globalThis.navigator ?? {};
    const isThere = here.serviceWorker && globalThis.PushManager && globalThis.Notification;
    const isInstalled = here.standalone || globalThis.matchMedia?.("(display-mode: standalone)").matches;
    if (!isThere) return here.userAgent && isIos() && !isInstalled ? "needs_home_screen" : "unsupported";
    if (this.#options.registration) return null;
    return new URL(this.#worker, location.href).origin === location.origin ? null : "needs_worker";
  }

  #refusal(reason) {
    return new HubError(reason, REASONS[reason]);
  }

  get #kept() {
    try {
      return JSON.parse(localStorage.getItem(KEPT));
    } catch {
      return null;
    }
  }

  #keep(value) {
    if (value) localStorage.setItem(KEPT, JSON.stringify(value));
    else localStorage.removeItem(KEPT);
  }

  async #changed() {
    const status = await this.#status();
    this.#hub.emit("push", status);
    return status;
  }

  /** What changes the subscription waits for what is changing it. */
  #inTurn(change) {
    const turn = this.#last.then(change);
    this.#last = turn.catch(() => {}); // heard by whoever asked for that change
    return turn;
  }

  /** A change that nobody waits for. */
  #later(change) {
    this.#inTurn(change).catch((error) => this.#hub.emit("error", { error }));
  }
}
