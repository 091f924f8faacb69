/** The demo page: one person's inbox, live. The wire is client.js, what is seen of it elements.js; here is the rest. */

import { createHub } from "../client.js";
import { useHub } from "../elements.js";

const $ = (id) => document.getElementById(id);
const wanted = new URLSearchParams(location.search).get("user");

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
  const title = Object.assign(document.createElement("p"), { className: "empty-title", textContent: "No inbox" });
  const why = Object.assign(document.createElement("p"), { className: "quiet", textContent: text });
  $("inbox").texts = { signedOut: text };
  $("empty").replaceChildren(title, why);
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

// -- The light --------------------------------------------------------------------------------------

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
  document.title = unread ? `(${unread > 999 ? "999+" : unread}) Carillon` : "Carillon";
});

hub.on("error", ({ error }) => console.warn(error.code, error.message));

// -- What the page says -----------------------------------------------------------------------------

let fading;

function say(text) {
  clearTimeout(fading);
  $("said").textContent = text;
  fading = setTimeout(() => ($("said").textContent = ""), 8_000);
}

useHub(hub); // every element on this page shows it, and the first of them connects it
