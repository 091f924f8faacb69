/** The demo page: one person's inbox, live. Everything about the wire is in client.js; here are only its looks. */

import { createHub } from "../client.js";

const $ = (id) => document.getElementById(id);
const wanted = new URLSearchParams(location.search).get("user");
const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

const STATES = {
  connecting: () => "Connecting…",
  open: () => "Live",
  recovering: () => "Catching up…",
  offline: ({ reason, retryInMs }) =>
    reason === "hidden" ? "Resting" : `Offline, next try in ${Math.max(1, Math.round(retryInMs / 1_000))} s`,
  closed: ({ reason }) => ENDS[reason] ?? `Closed: ${reason}`,
};
const ENDS = { unauthorized: "Closed: token refused", signed_out: "Closed: signed out", disconnected: "Disconnected" };

/** A development token, fresh each time; null where the hub gives none away. */
async function getToken() {
  const answer = await fetch(`/demo/session${wanted ? `?user=${encodeURIComponent(wanted)}` : ""}`);
  if (answer.status === 404) return explain("This hub is not in development mode, so it gives this page no token.");
  if (answer.status === 422) return explain("That is not a user id: letters, digits and . _ - please.");
  const { token, user_id: userId } = await answer.json();
  $("user").value = userId;
  showCommand(token);
  return token;
}

function explain(text) {
  $("feed").setAttribute("aria-busy", "false");
  $("empty").hidden = false;
  $("empty").querySelector(".empty-title").textContent = "No inbox";
  $("empty").querySelector(".quiet").textContent = text;
  return null;
}

const hub = createHub({ getToken });

// -- Ring the bell ----------------------------------------------------------------------------------

const EXAMPLE = {
  title: "Ding!",
  message: "This came from a terminal.",
  notification_type: "system",
  priority: "normal",
};
let token = "";

function showCommand(fresh) {
  token = fresh;
  const secret = Object.assign(document.createElement("span"), { className: "secret", textContent: token });
  $("command").replaceChildren(
    `curl ${location.origin}/api/v1/notifications \\\n  -H 'Authorization: Bearer `,
    secret,
    `' \\\n  -H 'Content-Type: application/json' \\\n  -d '${JSON.stringify(EXAMPLE, null, 2).replaceAll("\n", "\n  ")}'`,
  );
  $("copy").disabled = $("send").disabled = false;
}

$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText($("command").textContent);
    say("Copied. Paste it into a terminal.");
  } catch {
    getSelection().selectAllChildren($("command")); // no clipboard here: at least it is selected
    say("Selected. Copy it with your keyboard.");
  }
});

$("send").addEventListener("click", async () => {
  const answer = await fetch("/api/v1/notifications", {
    method: "POST",
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
    body: JSON.stringify({ ...EXAMPLE, message: "This came from a button." }),
  });
  if (!answer.ok) say(`Refused: ${(await answer.json()).detail}`);
});

$("who").addEventListener("submit", (event) => {
  event.preventDefault();
  location.search = new URLSearchParams({ user: $("user").value });
});

// -- The light and the bell -------------------------------------------------------------------------

let countdown;

hub.on("state", (state) => {
  clearInterval(countdown);
  const due = performance.now() + (state.retryInMs ?? 0);
  const show = () => {
    $("light").dataset.state = state.state;
    $("light-text").textContent = STATES[state.state]({ ...state, retryInMs: due - performance.now() });
  };
  show();
  if (state.retryInMs > 1_000) countdown = setInterval(show, 1_000);
});

hub.on("count", ({ unread }) => {
  const count = unread > 999 ? "999+" : String(unread);
  $("badge").hidden = unread === 0;
  $("badge").textContent = count;
  $("bell").setAttribute("aria-label", unread ? `Inbox, ${count} unread` : "Inbox, nothing unread");
  $("summary").textContent = unread ? `${count} unread` : "";
  $("read-all").disabled = unread === 0;
  document.title = unread ? `(${count}) Carillon` : "Carillon";
});

$("bell").addEventListener("click", () => {
  const first = $("feed").querySelector(".item.unread") ?? $("feed").querySelector(".item");
  (first ?? $("inbox")).focus();
});

hub.on("notification", ({ notification }) => {
  const { title, message, priority } = notification;
  $(priority === "urgent" ? "urgent" : "polite").textContent = `${title}. ${message}`;
  arrived.add(notification.id);
  $("bell").classList.remove("ringing");
  void $("bell").offsetWidth; // so that the animation begins anew
  $("bell").classList.add("ringing");
});

// -- The inbox --------------------------------------------------------------------------------------

const shown = new Map(); // id -> article
const arrived = new Set(); // ids that came while we watched: they are highlighted once
let nextCursor = null;
let isDrawn = true;

hub.on("inbox", () => {
  if (!isDrawn) return;
  isDrawn = false; // however many events a turn brings, draw once
  requestAnimationFrame(draw);
});

function draw() {
  isDrawn = true;
  const { items } = hub.inbox;
  const wanted = new Set(items.map((item) => item.id));
  for (const [id, article] of shown) {
    if (wanted.has(id)) continue;
    if (article.contains(document.activeElement)) (article.nextElementSibling ?? article.previousElementSibling ?? $("inbox")).focus();
    article.remove();
    shown.delete(id);
  }
  items.forEach((item, place) => {
    const article = shown.get(item.id) ?? build(item.id);
    fill(article, item, place, items.length);
    const there = $("feed").children[place];
    if (there !== article) $("feed").insertBefore(article, there ?? null);
  });
  if (hub.state.state !== "closed") $("empty").hidden = items.length > 0 || $("feed").ariaBusy === "true";
  for (const article of shown.values()) article.tabIndex = -1;
  const current = $("feed").querySelector(".item:focus, .item:focus-within") ?? $("feed").firstElementChild;
  if (current) current.tabIndex = 0;
}

function build(id) {
  const article = $("item").content.firstElementChild.cloneNode(true);
  article.id = `n-${id}`;
  article.querySelector(".title").id = `t-${id}`;
  article.setAttribute("aria-labelledby", `t-${id}`);
  article.querySelector(".toggle").addEventListener("click", () => {
    const isRead = article.classList.contains("unread");
    perform(isRead ? hub.inbox.markRead(id) : hub.inbox.markUnread(id));
  });
  article.querySelector(".archive").addEventListener("click", () => {
    perform(hub.inbox.archive(id), `Archived “${article.querySelector(".title").textContent}”.`);
  });
  article.querySelector(".open").addEventListener("click", () => perform(hub.inbox.markRead(id)));
  if (arrived.delete(id)) article.classList.add("new");
  shown.set(id, article);
  return article;
}

/** Only text goes into the page, never markup: what a notification says is somebody else's. */
function fill(article, item, place, size) {
  const part = (name) => article.querySelector(name);
  const isUnread = !item.read;
  article.classList.toggle("unread", isUnread);
  article.dataset.priority = item.priority;
  article.setAttribute("aria-posinset", place + 1);
  article.setAttribute("aria-setsize", nextCursor ? -1 : size);
  part(".title").textContent = item.title;
  part(".message").textContent = item.message;
  part(".type").textContent = item.notification_type.replaceAll("_", " ");
  part(".priority").textContent = ["high", "urgent"].includes(item.priority) ? item.priority : "";
  part(".toggle").textContent = isUnread ? "Mark read" : "Mark unread";
  for (const name of [".toggle", ".archive", ".open"]) {
    part(name).setAttribute("aria-label", `${part(name).textContent}: “${item.title}”`);
  }
  const link = hub.link(item);
  part(".open").hidden = !link;
  if (link) Object.assign(part(".open"), { href: link, rel: "noopener noreferrer" });
  part("time").dateTime = item.created_at;
  part("time").title = exact.format(new Date(item.created_at));
  part("time").textContent = ago(item.created_at);
}

function ago(time) {
  const seconds = Math.max(0, (hub.now() - Date.parse(time)) / 1_000);
  for (const [unit, size] of [["day", 86_400], ["hour", 3_600], ["minute", 60]]) {
    if (seconds >= size) return relative.format(-Math.floor(seconds / size), unit);
  }
  return "just now";
}

/** Arrow keys go from one notification to the next, as in any feed. */
$("feed").addEventListener("keydown", (event) => {
  const articles = [...$("feed").children];
  const here = articles.indexOf(event.target.closest(".item"));
  const there = { ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: articles.length - 1 }[event.key];
  if (there === undefined || !articles[there]) return;
  event.preventDefault();
  for (const article of articles) article.tabIndex = -1;
  articles[there].tabIndex = 0;
  articles[there].focus();
});

$("read-all").addEventListener("click", () => perform(hub.inbox.markAllRead(), "Everything is read."));
$("more").addEventListener("click", () => load(nextCursor));
setInterval(draw, 30_000); // "2 minutes ago" grows old

async function load(cursor) {
  try {
    ({ nextCursor } = await hub.inbox.list({ limit: 30, cursor }));
    $("more").hidden = !nextCursor;
    $("feed").setAttribute("aria-busy", "false");
    draw();
  } catch (error) {
    if (error.code !== "signed_out") say(`The inbox could not be read: ${error.message}`);
  }
}

// -- The toast --------------------------------------------------------------------------------------

let fading;

/** Say what happened, with a way back where there is one. */
function say(text, canUndo = false) {
  clearTimeout(fading);
  $("toast").hidden = false;
  $("toast-text").textContent = text;
  $("undo").hidden = !canUndo;
  fading = setTimeout(fade, 8_000);
}

function fade() {
  if ($("toast").matches(":hover, :focus-within")) fading = setTimeout(fade, 2_000);
  else $("toast").hidden = true;
}

async function perform(change, done) {
  try {
    await change;
    if (done) say(done, true);
  } catch (error) {
    say(`That did not work: ${error.message}`); // and client.js has taken it back
  }
}

$("undo").addEventListener("click", async () => {
  $("toast").hidden = true;
  await perform(hub.inbox.undo());
  $("inbox").focus();
});

hub.on("error", ({ error }) => console.warn(error.code, error.message));
hub.on("resync", () => load());
hub.connect().catch(() => {}); // the light says why
load();
