/**
 * The push worker of Carillon: shows what is pushed, opens what is clicked, forgets what was read elsewhere.
 *
 * It needs no scope and claims no page. Use it as it is (push.enable() of client.js registers it at a scope of its own),
 * or inside the worker you have: importScripts("https://hub.example/sw.js"), or import "https://hub.example/sw.js" in a
 * module worker. Before that line you may set
 *   self.carillon = {url, linkOrigins, icon, badge, language}
 * url: where the hub is, if it is not where this worker's file is; linkOrigins: origins a click may lead to besides our
 * own (default: any https); icon, badge: for what brings none; language: of our own few words (default: the browser's).
 *
 * The payload is one JSON object: a Declarative Web Push message (web_push: 8030, notification {...}, app_badge) with
 * title, body, icon, badge, tag, data, actions and priority beside it; `data.receipt`: a token to report with, `reads`:
 * ids to close, `fetch`: {id, token, when} of what did not fit ("shown") or is for nobody's lock screen ("clicked").
 */

(() => {
  "use strict";

  const FETCH_MS = 8_000; // for a payload that did not fit; browsers give an event about 30 s
  const ANSWER_MS = 400; // for an open page to say that it goes there; the right to focus a window lasts about 1 s
  const TEXTS = {
    ar: ["إشعار جديد", "افتح التطبيق لقراءته."],
    de: ["Neue Nachricht", "Zum Lesen öffnen."],
    en: ["New notification", "Open it to read it."],
    es: ["Nueva notificación", "Ábrela para leerla."],
    fr: ["Nouvelle notification", "Ouvrez-la pour la lire."],
    it: ["Nuova notifica", "Aprila per leggerla."],
    pt: ["Nova notificação", "Abra para ler."],
    sw: ["Arifa mpya", "Ifungue uisome."],
  };

  const settings = self.carillon ?? {};
  const base = new URL(settings.url ?? ".", self.location);
  if (!base.pathname.endsWith("/")) base.pathname += "/";
  const api = (path) => new URL(`api/v1/push/${path}`, base);

  const ended = new Set(); // receipts of what a click or a read ended; some browsers call that closed, too

  const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
  const text = (value) => (typeof value === "string" && value ? value : undefined);

  /** The link if a click may follow it: a path of this site, or https. As safeLink of client.js, made absolute. */
  function safeLink(link) {
    if (typeof link !== "string" || /[\u0000- \u007f\\]/.test(link)) return null;
    if (/^\/(?!\/)/.test(link)) return new URL(link, self.location).href;
    try {
      const url = new URL(link);
      if (url.origin === self.location.origin) return url.href;
      const isPlain = url.protocol === "https:" && /^https:\/\/[^/@]+(\/|\?|#|$)/i.test(link);
      return isPlain && (settings.linkOrigins?.includes(url.origin) ?? true) ? url.href : null;
    } catch {
      return null;
    }
  }

  /** Title and body for what can not be read, and the language they are in. */
  function fallback() {
    const wanted = String(settings.language ?? self.navigator.language ?? "en").split("-")[0];
    const lang = wanted in TEXTS ? wanted : "en";
    const [title, body] = TEXTS[lang];
    return { title, body, lang };
  }

  // -- Showing --------------------------------------------------------------------------------------

  /** The payload as an object, {} when there is none that can be read. */
  function parse(data) {
    try {
      const payload = data.json();
      return isObject(payload) ? payload : {};
    } catch {
      return {};
    }
  }

  /** What a one-time token stands for, or null: offline, late, used already. */
  async function whole({ id, token }) {
    try {
      const url = api("fetch");
      url.search = new URLSearchParams({ id, token });
      const signal = AbortSignal.timeout(FETCH_MS);
      const answer = await fetch(url, { cache: "no-store", credentials: "omit", signal });
      const payload = answer.ok ? await answer.json() : null;
      return isObject(payload) ? payload : null;
    } catch {
      return null;
    }
  }

  /** All of the payload. What did not fit is fetched; when that fails, what came must do, and isShort says so. */
  async function complete(payload) {
    if (!isObject(payload.fetch) || payload.fetch.when === "clicked") return { payload, isShort: false };
    const rest = await whole(payload.fetch);
    return { payload: { ...payload, ...rest }, isShort: !rest };
  }

  /** Where a click on it leads, checked, or null. */
  const linkOf = (said, data) => safeLink(data.action_url) ?? safeLink(said.navigate);

  /** What showNotification() takes. */
  function read(payload) {
    const declared = isObject(payload.notification) ? payload.notification : {};
    const said = { ...payload, ...declared };
    const data = { ...(isObject(payload.data) && payload.data), ...(isObject(declared.data) && declared.data) };
    const words = fallback();
    const title = text(said.title);
    const id = text(data.notification_id);
    const given = Array.isArray(said.actions) ? said.actions : [];
    const actions = given.filter((one) => text(one?.action) && text(one.title));
    const ours = {
      link: linkOf(said, data),
      links: Object.fromEntries(actions.map((one) => [one.action, safeLink(one.navigate ?? one.url)])),
      receipt: text(data.receipt),
      fetch: isObject(payload.fetch) && payload.fetch.when === "clicked" ? payload.fetch : undefined,
    };
    const options = {
      body: text(said.body) ?? text(said.message) ?? (title ? "" : words.body),
      icon: text(said.icon) ?? settings.icon,
      badge: text(said.badge) ?? settings.badge,
      image: text(said.image),
      tag: text(said.tag) ?? id,
      lang: text(said.lang) ?? (title ? undefined : words.lang),
      dir: ["ltr", "rtl"].includes(said.dir) ? said.dir : "auto",
      silent: said.silent === true ? true : undefined,
      requireInteraction: Boolean(said.requireInteraction ?? said.priority === "urgent"),
      timestamp: Date.parse(said.timestamp) || undefined,
      actions: actions.slice(0, self.Notification?.maxActions ?? 2).map(({ action, title }) => ({ action, title })),
      data: { ...data, notification_id: id, carillon: ours },
    };
    for (const name of Object.keys(options)) if (options[name] === undefined) delete options[name];
    return { title: title ?? words.title, options };
  }

  /** Always shows something: browsers punish a push without, and a person should not miss it for an odd icon. */
  async function show(payload, isShort) {
    const { title, options } = read(payload);
    const { tag, data, silent } = options;
    const isSame = (one) => one.data?.notification_id === data.notification_id;
    if (tag && isShort) { // a second copy of what was fetched already, and is shown whole
      const fetched = (await self.registration.getNotifications({ tag })).find(isSame);
      if (fetched) return again(fetched);
    }
    if (tag && !silent) { // news in the place of older news rings again; the same news a second time does not
      const before = await self.registration.getNotifications({ tag });
      const isNews = before.length > 0 && !before.some(isSame);
      if (isNews) options.renotify = true;
    }
    try {
      await self.registration.showNotification(title, options);
    } catch {
      const { body, lang } = options;
      await self.registration.showNotification(title, { body, ...(tag && { tag }), ...(lang && { lang }), data });
    }
  }

  /** Show once more, without a sound, what is shown. */
  function again({ title, body, icon, badge, image, tag, lang, dir, silent, requireInteraction, actions, data }) {
    const options = { body, icon, badge, image, tag, lang, dir, silent, requireInteraction, actions, data };
    for (const name of Object.keys(options)) if (!options[name]) delete options[name];
    return self.registration.showNotification(title, options);
  }

  async function receive(data) {
    const { payload, isShort } = await complete(parse(data));
    const ids = Array.isArray(payload.reads) ? payload.reads : [];
    await inTurn(() => show(payload, isShort));
    const unread = payload.app_badge ?? payload.notification?.app_badge;
    const closed = inTurn(() => close(ids));
    await Promise.allSettled([closed, mark(unread), report(payload.data?.receipt, "shown")]);
  }

  /**
   * One look at the screen or change of it at a time: Chromium forgets a notification that is just being shown when
   * somebody asks which are (PlatformNotificationContextImpl reads both its own list and the screen's).
   */
  let last = Promise.resolve();
  function inTurn(change) {
    const turn = last.then(change);
    last = turn.catch(() => {}); // told to whoever waits for that turn
    return turn;
  }

  // -- What was read elsewhere ----------------------------------------------------------------------

  /** Close these notifications of ours; ids null: all. */
  async function close(ids) {
    if (ids && !ids.length) return;
    for (const one of await self.registration.getNotifications()) {
      if (!one.data?.carillon || (ids && !ids.includes(one.data.notification_id))) continue;
      ended.add(one.data.carillon.receipt);
      one.close();
    }
  }

  /** The number at the app's icon, where there is one. */
  async function mark(unread) {
    const count = Number(unread ?? NaN);
    if (!Number.isSafeInteger(count) || count < 0 || !self.navigator.setAppBadge) return;
    await (count ? self.navigator.setAppBadge(count) : self.navigator.clearAppBadge());
  }

  /** Tell the hub what became of a notification. Best effort: nobody waits for it and nothing depends on it. */
  async function report(token, event, action) {
    if (!text(token)) return;
    const receipt = { token, event, ...(text(action) && { action }) };
    await post("receipts", receipt).catch(() => {});
  }

  function post(path, body) {
    return fetch(api(path), {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
      credentials: "omit",
      keepalive: true,
    });
  }

  // -- Clicks ---------------------------------------------------------------------------------------

  /** Does an open page say that it will show this? */
  function asks(page, message) {
    return new Promise((resolve) => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = ({ data }) => resolve(data === true);
      setTimeout(() => resolve(false), ANSWER_MS);
      page.postMessage(message, [port2]);
    });
  }

  /** Where `link` is open already, there; else in an open page of ours that goes there; else in a new one. */
  async function open(link, message) {
    const windows = await self.clients.matchAll({ type: "window", includeUncontrolled: true });
    const pages = windows.filter(({ frameType }) => frameType !== "nested");
    const target = new URL(link ?? base);
    const there = pages.find(({ url }) => (link ? url === target.href : new URL(url).origin === target.origin));
    if (there) {
      await Promise.allSettled([there.focus()]);
      return;
    }
    if (target.origin === self.location.origin) {
      const answers = await Promise.all(pages.map((page) => asks(page, { ...message, carillon: "ask" })));
      const page = pages[answers.indexOf(true)]; // the one looked at last comes first
      if (page) {
        await Promise.allSettled([page.focus()]);
        page.postMessage({ ...message, carillon: "open", url: target.href });
        return;
      }
    }
    await self.clients.openWindow(target.href);
  }

  async function click({ notification, action }) {
    const { carillon, notification_id } = notification.data;
    const told = report(carillon.receipt, "clicked", action);
    const said = carillon.fetch && (await whole(carillon.fetch)); // now somebody is there to see it
    const link = (said && linkOf(said, said.data ?? {})) ?? carillon.link;
    const wanted = action && action !== "view" ? carillon.links[action] : link;
    const isOver = action && !wanted; // a button that leads nowhere, "dismiss": closing was all
    if (!isOver) await open(wanted, { notification_id, action });
    await told;
  }

  // -- A new subscription in the place of the old ---------------------------------------------------

  const encoded = (buffer) =>
    btoa(String.fromCharCode(...new Uint8Array(buffer)))
      .replaceAll("+", "-")
      .replaceAll("/", "_")
      .replaceAll("=", "");

  const keyOf = (subscription, name) => encoded(subscription.getKey(name));

  /** Browsers tell what they took away, some also what they gave instead. Who knows the old one may replace it. */
  async function renew({ oldSubscription: old, newSubscription: given }) {
    if (!old) return tellPages(); // Chromium, allowed again: who is there knows only a page, now or at its next start
    const answer = await fetch(api("vapid-public-key"), { cache: "no-store", credentials: "omit" });
    const { public_key: key } = await answer.json();
    const subscribe = () =>
      self.registration.pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: key });
    const before = given?.options?.applicationServerKey;
    const isOld = before && encoded(before) !== key.replace(/=+$/, ""); // the hub would sign with another key
    if (isOld) await given.unsubscribe();
    const made = given && !isOld ? given : await subscribe();
    await post("replace", {
      old_endpoint: old.endpoint,
      old_auth_key: keyOf(old, "auth"),
      endpoint: made.endpoint,
      p256dh_key: keyOf(made, "p256dh"),
      auth_key: keyOf(made, "auth"),
    });
    await tellPages();
  }

  async function tellPages() {
    const pages = await self.clients.matchAll({ type: "window", includeUncontrolled: true });
    for (const page of pages) page.postMessage({ carillon: "renewed" });
  }

  // -- Events; those of notifications that are not ours belong to the worker we live in ---------------

  self.addEventListener("push", (event) => event.waitUntil(receive(event.data)));
  self.addEventListener("pushsubscriptionchange", (event) => event.waitUntil(renew(event)));
  self.addEventListener("notificationclick", (event) => {
    if (!event.notification.data?.carillon) return;
    ended.add(event.notification.data.carillon.receipt);
    event.notification.close();
    event.waitUntil(click(event));
  });
  self.addEventListener("notificationclose", (event) => {
    const { carillon } = event.notification.data ?? {};
    if (carillon && !ended.has(carillon.receipt)) event.waitUntil(report(carillon.receipt, "closed"));
  });
  self.addEventListener("message", (event) => {
    const { carillon, ids, unread } = event.data ?? {};
    if (carillon === "read") event.waitUntil(Promise.allSettled([inTurn(() => close(ids ?? null)), mark(unread)]));
  });
})();
