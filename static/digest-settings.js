/**
 * The inside of <notify-digest-settings>, which elements.js loads when a page shows one: when the digest comes, what
 * stands in it, what waits for it. What is changed is shown and saved at once. What the server refuses by name stays
 * where it was typed, with the reason; what did not reach it is taken back, and can be tried again.
 */

/** What it says in English; other languages have theirs in texts/. */
export const english = {
  heading: "Digest", on: "Send me a summary of what came in", frequency: "How often",
  frequencies: { daily: "Every day", weekdays: "On working days", weekly: "Once a week", hourly: "Every hour, from 8 to 20", off: "Only when I ask" },
  day: "On", times: "At", time: "Time {number}", hourly: "Of this time the minute counts.", addTime: "Add a time", removeTime: "Remove {time}",
  zone: "Time zone", device: "Use this device’s: {zone}", moved: "You seem to be elsewhere. Use {zone}",
  weekends: "Not on weekends", channels: "By", inApp: "Inbox", priority: "From this priority on",
  priorities: { low: "Low: everything", normal: "Normal", high: "High", urgent: "Urgent only" },
  include: "Only these kinds", includeHint: "With none chosen it is every kind.", exclude: "Never these kinds", another: "Another kind", add: "Add",
  weeklyTypes: "These kinds only once a week", quiet: "Tell me also when nothing came for a week", active: "Only in the inbox when I am here anyway",
  unreadOnly: "Only what I have not read", next: "The next ones", none: "None is to come.", clocks: "The clocks change on this day",
  pending: "Waiting for the next one: {count}", more: "and {count} more", nothing: "Nothing has come in since the last one.",
  preview: "What it would say now", total: "Notifications: {count}", unread: "Unread: {count}", byType: "By kind",
  sendNow: "Send me one now", sent: "It is on its way.", marked: "Not saved yet: something is marked.",
};

export const css = `
[part~="digest"] { display: grid; grid-template-columns: minmax(0, 1fr); gap: 1.25rem; }
[part~="digest"]:focus { outline: none; }
[part~="fields"], section, .stack { display: grid; grid-template-columns: minmax(0, 1fr); gap: 1.25rem; }
section { gap: .5rem; }
[part~="field"] > button { justify-self: start; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 14rem), 1fr)); gap: 1.25rem; align-items: start; }
fieldset { min-width: 0; margin: 0; padding: 0; border: 0; }
legend, .label { padding: 0; font-weight: 600; font-size: .9375rem; }
.label { display: block; }
[part~="field"] { display: grid; grid-template-columns: minmax(0, 1fr); gap: .375rem; }
fieldset[part~="field"] { display: block; }
fieldset > * + * { margin-block-start: .375rem; }
.check { display: inline-flex; align-items: center; gap: .5rem; min-height: 1.75rem; cursor: pointer; overflow-wrap: anywhere; }
.checks { display: flex; flex-wrap: wrap; gap: .125rem 1.25rem; }
input[type="checkbox"]:not([part~="switch"]) { flex: none; width: 1.5rem; height: 1.5rem; margin: 0; accent-color: var(--_accent); }
select, input:not([type="checkbox"]) {
  max-width: 100%;
  min-height: 2.25rem;
  padding: .25rem .5rem;
  border: 1px solid var(--_muted);
  border-radius: .5rem;
  background: var(--_background);
  color: inherit;
  font: inherit;
  font-size: .9375rem;
}
select { width: 100%; }
::placeholder { color: var(--_muted); opacity: 1; }
[aria-invalid="true"] { border-color: var(--_urgent) !important; outline: 1px solid var(--_urgent); }
[part~="error"] { color: var(--_urgent); font-size: .9375rem; overflow-wrap: anywhere; }
[part~="time"] { display: inline-flex; align-items: center; gap: .25rem; }
[part~="switch"] { flex: none; }
ol, dl, dd { margin: 0; padding: 0; }
ol, ul { list-style: none; }
li { padding-block: .3125rem; border-block-start: 1px solid var(--_border); overflow-wrap: anywhere; }
[part~="clock-change"] { margin-inline-start: .5rem; padding: 0 .5rem; border: 1px solid var(--_accent); border-radius: 1rem; color: var(--_accent); font-size: .8125rem; }
[part~="preview"] { display: grid; gap: .5rem; padding: .875rem 1rem; border: 1px solid var(--_border); border-radius: var(--_radius); background: var(--_unread); }
`;

const FREQUENCIES = ["daily", "weekdays", "weekly", "hourly", "off"];
const PRIORITIES = ["low", "normal", "high", "urgent"];
const CHANNELS = ["in_app", "push", "email", "sms", "whatsapp", "telegram"];
const SHOWN = 10; // of what waits
const TYPING_MS = 900; // a time is not whole after the first digit
const LOOK_MS = 1_000; // much may come at once

/** What a fault of the server is about: fields by the members of a request. */
const FIELDS = { delivery_time: "delivery_times" };

/** One name for a zone that has several; as it is where the browser does not know it. */
function canonical(timeZone) {
  try {
    return new Intl.DateTimeFormat("en", { timeZone }).resolvedOptions().timeZone;
  } catch {
    return timeZone;
  }
}

const deviceZone = () => Intl.DateTimeFormat().resolvedOptions().timeZone;

/** Monday is 0; the first is that of the language. */
function days(language) {
  const locale = new Intl.Locale(language);
  const first = ((locale.getWeekInfo?.() ?? locale.weekInfo)?.firstDay ?? 1) - 1;
  const name = new Intl.DateTimeFormat(language, { weekday: "long", timeZone: "UTC" });
  return Array.from({ length: 7 }, (_, place) => (first + place) % 7).map((day) => [day, name.format(Date.UTC(2024, 0, 1 + day))]);
}

export class DigestForm {
  #host;
  #kit;
  #parts = {};
  #saved = null; // as the server said
  #draft = {}; // what was changed and is not saved
  #times = []; // in the order in which they were typed
  #errors = {}; // field -> reason
  #lost = null; // changes that did not reach the server
  #runs = [];
  #pending = null;
  #preview = null;
  #said = ""; // a key of the texts
  #why = {};
  #isBroken = false;
  #typing;
  #looking;
  #last = Promise.resolve(); // one change after the other

  /** host: the element. root: where it goes. kit: how elements.js builds. */
  constructor(host, root, kit) {
    this.#host = host;
    this.#kit = kit;
    this.#build(root);
  }

  #t(key, values) { return this.#host.t(`digest.${key}`, values); }

  get #shown() { return { ...this.#saved, ...this.#draft }; }

  // -- Building ---------------------------------------------------------------------------------------

  #build(root) {
    const { make, button } = this.#kit;
    const p = this.#parts;
    const change = (name, value) => ({ target }) => this.#change({ [name]: value(target) });
    const checkbox = (name) => this.#check(make("input", { type: "checkbox", id: name, onchange: change(name, ({ checked }) => checked) }));
    const select = (name, onchange = change(name, ({ value }) => value)) => make("select", { id: name, part: "select", onchange });
    p.heading = make("h2", { part: "heading", id: "heading" });
    p.enabled = make("input", { type: "checkbox", role: "switch", part: "switch", id: "is_enabled", onchange: change("is_enabled", ({ checked }) => checked) });
    p.on = make("label", { class: "check", part: "toggle" }, p.enabled, make("span"));

    p.frequency = select("frequency", ({ target: { value } }) => this.#change({ frequency: value, ...this.#day({ frequency: value }) }));
    p.day = select("weekly_day", change("weekly_day", ({ value }) => Number(value)));
    p.timeList = make("div", { class: "row" });
    p.addTime = button("add-time", () => this.#addTime());
    p.zone = select("timezone");
    p.useZone = button("use-zone", () => this.#change({ timezone: p.useZone.dataset.zone }));
    p.weekends = checkbox("exclude_weekends");
    p.channels = make("div", { class: "checks" });
    p.priority = select("min_priority");
    p.unread = checkbox("unread_only");
    p.quiet = checkbox("all_quiet");
    p.active = checkbox("inbox_when_active");
    const fields = {
      frequency: this.#field("frequency", p.frequency),
      weekly_day: this.#field("weekly_day", p.day),
      delivery_times: this.#group("delivery_times", make("p", { class: "quiet", id: "hint-delivery_times" }), p.timeList, p.addTime),
      timezone: this.#field("timezone", p.zone, p.useZone),
      exclude_weekends: this.#bare("exclude_weekends", p.weekends),
      channels: this.#group("channels", p.channels),
      min_priority: this.#field("min_priority", p.priority),
      unread_only: this.#bare("unread_only", p.unread),
      include_types: this.#typesField("include_types", make("p", { class: "quiet", id: "hint-include_types" })),
      exclude_types: this.#typesField("exclude_types"),
      weekly_types: this.#typesField("weekly_types"),
      all_quiet: this.#bare("all_quiet", p.quiet),
      inbox_when_active: this.#bare("inbox_when_active", p.active),
    };
    p.fields = fields;
    p.form = make("div", { part: "fields", hidden: true },
      make("div", { class: "pair" }, fields.frequency.node, fields.weekly_day.node), fields.delivery_times.node, fields.timezone.node, fields.exclude_weekends.node,
      fields.channels.node, make("div", { class: "pair" }, fields.min_priority.node, fields.unread_only.node),
      make("div", { class: "pair" }, fields.include_types.node, fields.exclude_types.node, fields.weekly_types.node),
      make("div", {}, fields.all_quiet.node, fields.inbox_when_active.node));

    p.runsTitle = make("h3", { id: "next" });
    p.runs = make("ol", { part: "runs", "aria-labelledby": "next" });
    p.noRuns = make("p", { class: "quiet" });
    p.pendingTitle = make("h3", { id: "pending" });
    p.pending = make("ul", { part: "pending", "aria-labelledby": "pending" });
    p.more = make("p", { class: "quiet" });
    p.showPreview = button("show-preview", () => this.#togglePreview());
    p.send = button("send-now", () => this.#send());
    p.preview = make("div", { part: "preview", id: "preview", role: "group", hidden: true });
    p.coming = make("div", { class: "stack", hidden: true },
      make("section", {}, p.runsTitle, p.runs, p.noRuns),
      make("section", {}, p.pendingTitle, p.pending, p.more, make("div", { class: "row" }, p.showPreview, p.send), p.preview));

    p.status = make("p", { part: "status", role: "status", class: "quiet" });
    p.retry = button("retry", () => this.#retry());
    root.append(make("slot", { name: "header" }, p.heading), p.on, p.form, make("div", { class: "row" }, p.status, p.retry), p.coming,
      make("slot", { name: "footer" }));
  }

  /** A control with its label above and its error below. */
  #field(name, control, ...more) {
    const { make } = this.#kit;
    const label = make("label", { class: "label", for: name });
    const error = make("p", { part: "error", id: `error-${name}`, hidden: true });
    return { label, error, controls: [control], node: make("div", { part: "field" }, label, control, ...more, error) };
  }

  #bare(name, { node, control, label }) {
    const { make } = this.#kit;
    const error = make("p", { part: "error", id: `error-${name}`, hidden: true });
    return { label, error, controls: [control], node: make("div", { part: "field" }, node, error) };
  }

  #group(name, ...inside) {
    const { make } = this.#kit;
    const label = make("legend");
    const error = make("p", { part: "error", id: `error-${name}`, hidden: true });
    const node = make("fieldset", { part: "field" }, label, ...inside, error);
    return { label, error, node, get controls() { return [...node.querySelectorAll("input")]; } };
  }

  #check(control) {
    const { make } = this.#kit;
    const label = make("span", { dir: "auto" });
    return { control, label, node: make("label", { class: "check" }, control, label) };
  }

  /** Kinds to choose, and one more to be named. */
  #typesField(name, ...hint) {
    const { make, button } = this.#kit;
    const list = make("div", { class: "checks" });
    const input = make("input", { type: "text", id: `new-${name}`, autocomplete: "off", autocapitalize: "none", spellcheck: "false", maxlength: 64 });
    const add = () => {
      const type = input.value.trim();
      if (!type) return input.focus();
      input.value = "";
      this.#choose(name, [...new Set([...(this.#shown[name] ?? []), type])]);
      input.focus();
    };
    input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.isComposing) return;
      event.preventDefault();
      add();
    });
    const adding = button("add-type", add);
    return { ...this.#group(name, ...hint, list, make("div", { class: "row" }, input, adding)), list, input, adding };
  }

  // -- Reading ----------------------------------------------------------------------------------------

  attach(hub, signal) {
    this.#saved = null;
    this.#draft = {};
    this.#errors = {};
    hub.on("state", ({ state }) => state === "open" && this.#isBroken && this.reload(), { signal });
    hub.on("count", () => (this.#looking ??= setTimeout(() => this.#refresh(), LOOK_MS)), { signal }); // something came, or was read
    return this.reload();
  }

  async reload() {
    const { hub } = this.#host;
    if (!hub) return;
    try {
      const saved = await hub.digest.get({ deviceTimezone: deviceZone() });
      if (hub !== this.#host.hub) return;
      this.#take(saved);
      this.#isBroken = false;
      if (this.#said === "unreadable") this.#said = "";
    } catch (error) {
      if (hub !== this.#host.hub) return;
      this.#isBroken = true;
      this.#say("unreadable");
      this.#host.fail(error);
    }
    this.#host.redraw();
    return this.#refresh();
  }

  /** When the next ones come, and what waits. Nobody has asked, so an error is told to the page alone. */
  async #refresh() {
    const { hub } = this.#host;
    clearTimeout(this.#looking);
    this.#looking = undefined;
    if (!hub || !this.#saved?.is_enabled) return;
    try {
      const [{ runs }, pending, preview] = await Promise.all([
        hub.digest.nextRuns(), hub.digest.pending({ limit: SHOWN }), this.#preview && hub.digest.preview(),
      ]);
      if (hub !== this.#host.hub) return;
      this.#runs = runs;
      this.#pending = pending;
      this.#preview &&= preview ?? this.#preview;
    } catch (error) {
      this.#host.fail(error);
    }
    this.#host.redraw();
  }

  #take(saved) {
    this.#saved = saved;
    const same = JSON.stringify([...this.#times].sort()) === JSON.stringify(saved.delivery_times);
    if (!same && !this.#typing && !("delivery_times" in this.#draft)) this.#times = [...saved.delivery_times];
  }

  // -- Changing ---------------------------------------------------------------------------------------

  #change(changes) {
    Object.assign(this.#draft, changes);
    for (const name of Object.keys(changes)) delete this.#errors[name];
    this.#lost = null;
    this.draw();
    this.#last = this.#last.then(() => this.#save());
    return this.#last;
  }

  #choose(name, values) {
    return this.#change({ [name]: values, ...(name === "weekly_types" && this.#day({ weekly_types: values })) });
  }

  /** The day of the week belongs to a weekly digest, and to kinds that come once a week. */
  #day(changes) {
    const { frequency, weekly_types: types, weekly_day: day } = { ...this.#shown, ...changes };
    return { weekly_day: frequency === "weekly" || types?.length ? (day ?? 0) : null };
  }

  async #save() {
    const { hub } = this.#host;
    const wanted = { ...this.#draft };
    if (!hub || !Object.keys(wanted).length) return;
    if (!this.#host.tell("notify-save", { settings: this.#shown, changes: wanted }, true)) {
      this.#settle(wanted);
      this.#say("");
      return this.#host.redraw();
    }
    try {
      const fresh = await hub.digest.get(); // what was changed elsewhere meanwhile stays
      await this.#put(hub, fresh, wanted);
    } catch (error) {
      this.#settle(wanted);
      this.#lost = wanted;
      this.#say("failed", { reason: error.message });
      this.#host.fail(error);
    }
    this.#host.redraw();
  }

  /** What can not be accepted stays as it was typed; all the rest is saved. */
  async #put(hub, fresh, wanted) {
    try {
      const saved = await hub.digest.put({ ...fresh, ...wanted });
      if (hub !== this.#host.hub) return;
      this.#settle(wanted, saved);
      for (const name of Object.keys(this.#errors)) if (!(name in this.#draft)) delete this.#errors[name];
      this.#say(Object.keys(this.#errors).length ? "digest.marked" : "saved");
      this.#host.tell("notify-digest", { settings: saved });
      await this.#refresh();
    } catch (error) {
      const faults = Object.fromEntries(error.details?.map(({ path, message }) => [path.split(".")[0], message]) ?? []);
      const names = Object.keys(faults).map((name) => FIELDS[name] ?? name);
      if (error.code !== "invalid" || !names.length || !names.every((name) => name in this.#parts.fields)) throw error;
      Object.entries(faults).forEach(([name, message]) => (this.#errors[FIELDS[name] ?? name] = message));
      this.#say("digest.marked");
      this.#host.fail(error);
      const rest = Object.entries(wanted).filter(([name]) => !names.includes(name));
      if (rest.length && rest.length < Object.keys(wanted).length) await this.#put(hub, fresh, Object.fromEntries(rest));
    }
  }

  /** These changes are saved, or given up; what was changed again since is not. */
  #settle(changes, saved = this.#saved) {
    for (const [name, value] of Object.entries(changes)) if (this.#draft[name] === value) delete this.#draft[name];
    this.#take(saved);
  }

  #retry() {
    if (this.#lost) return this.#change(this.#lost);
    return this.#host.reload();
  }

  #say(key, why = {}) {
    this.#said = key;
    this.#why = why;
  }

  #addTime() {
    const taken = new Set(this.#times);
    const free = ["07:00", "12:00", "18:00", "21:00"].find((time) => !taken.has(time));
    const next = free ?? Array.from({ length: 24 }, (_, hour) => `${String(hour).padStart(2, "0")}:30`).find((time) => !taken.has(time));
    this.#times.push(next);
    this.#change({ delivery_times: [...this.#times] });
    this.#parts.timeList.lastElementChild.querySelector("input").focus();
  }

  #type(place, value) {
    if (!value || value === this.#times[place]) return;
    this.#times[place] = value;
    clearTimeout(this.#typing);
    this.#typing = setTimeout(() => this.#typed(), TYPING_MS);
  }

  /** Whoever types a time is given the time to. */
  #typed() {
    if (!this.#typing) return;
    clearTimeout(this.#typing);
    this.#typing = undefined;
    this.#change({ delivery_times: [...this.#times] });
  }

  #removeTime(place) {
    this.#times.splice(place, 1);
    this.#change({ delivery_times: [...this.#times] });
    this.#parts.timeList.children[Math.min(place, this.#times.length - 1)].querySelector("input").focus();
  }

  async #send() {
    if (!this.#host.tell("notify-send", { settings: this.#saved }, true)) return;
    try {
      await this.#host.hub.digest.sendNow();
      this.#say("digest.sent");
    } catch (error) {
      if (error.code === "conflict") this.#say("digest.nothing");
      else this.#say("failed", { reason: error.message });
      this.#host.fail(error);
    }
    this.#host.redraw();
  }

  async #togglePreview() {
    try {
      this.#preview = this.#preview ? null : await this.#host.hub.digest.preview();
    } catch (error) {
      this.#say("failed", { reason: error.message });
      this.#host.fail(error);
    }
    this.#host.redraw();
  }

  // -- Drawing ----------------------------------------------------------------------------------------

  draw() {
    const { say, put } = this.#kit;
    const p = this.#parts;
    const shown = this.#shown;
    say(p.heading, this.#t("heading"));
    say(p.on.lastElementChild, this.#t("on"));
    say(p.retry, this.#host.t("retry"));
    say(p.status, this.#said ? this.#host.t(this.#said, this.#why) : "");
    put(p.status, "data-state", this.#said.split(".").at(-1) || null);
    p.retry.hidden = !this.#isBroken && !this.#lost;
    p.on.hidden = !this.#saved;
    p.form.hidden = p.coming.hidden = !this.#saved || !shown.is_enabled;
    if (!this.#saved) return;
    p.enabled.checked = shown.is_enabled;
    if (!shown.is_enabled) return;
    this.#drawFields(shown);
    this.#drawErrors();
    this.#drawComing();
  }

  #drawFields(shown) {
    const { say } = this.#kit;
    const p = this.#parts;
    const f = p.fields;
    const names = {
      frequency: "frequency", weekly_day: "day", delivery_times: "times", timezone: "zone", exclude_weekends: "weekends", channels: "channels",
      min_priority: "priority", unread_only: "unreadOnly", include_types: "include", exclude_types: "exclude", weekly_types: "weeklyTypes",
      all_quiet: "quiet", inbox_when_active: "active",
    };
    for (const [name, key] of Object.entries(names)) say(f[name].label, this.#t(key));
    this.#options(p.frequency, FREQUENCIES.map((one) => [one, this.#t(`frequencies.${one}`)]), shown.frequency);
    this.#options(p.day, days(this.#host.locale.plural.resolvedOptions().locale), shown.weekly_day ?? 0);
    this.#options(p.priority, PRIORITIES.map((one) => [one, this.#t(`priorities.${one}`)]), shown.min_priority);
    f.weekly_day.node.hidden = shown.frequency !== "weekly" && !shown.weekly_types?.length;
    for (const name of ["weekly_types", "all_quiet", "inbox_when_active"]) f[name].node.hidden = !(name in shown); // an older hub
    f.delivery_times.node.hidden = shown.frequency === "off";
    f.exclude_weekends.node.hidden = ["off", "weekdays"].includes(shown.frequency) && !shown.exclude_weekends;
    const hint = f.delivery_times.node.querySelector("p");
    hint.hidden = shown.frequency !== "hourly";
    say(hint, this.#t("hourly"));
    say(f.include_types.node.querySelector("p"), this.#t("includeHint"));
    this.#drawTimes();
    this.#drawZones(shown);
    p.weekends.control.checked = shown.exclude_weekends;
    p.unread.control.checked = shown.unread_only;
    p.quiet.control.checked = Boolean(shown.all_quiet);
    p.active.control.checked = Boolean(shown.inbox_when_active);
    this.#drawChecks(p.channels, this.#channels(shown), shown.channels, (channel) => this.#channelName(channel), "channels");
    for (const name of ["include_types", "exclude_types", "weekly_types"]) {
      const chosen = shown[name] ?? [];
      const known = [...new Set([...this.#host.types, ...["include_types", "exclude_types", "weekly_types"].flatMap((one) => this.#saved[one] ?? []), ...chosen])];
      this.#drawChecks(f[name].list, known, chosen, (type) => this.#host.typeName(type), name, name === "include_types");
      say(f[name].adding, this.#t("add"));
      this.#kit.put(f[name].input, "aria-label", this.#t("another"));
      this.#kit.put(f[name].input, "placeholder", this.#t("another"));
    }
  }

  #channels(shown) {
    return [...new Set([...(this.#host.channels ?? CHANNELS), ...shown.channels])];
  }

  #channelName(channel) {
    return channel === "in_app" ? this.#t("inApp") : (this.#host.t(`channels.${channel}`) ?? channel);
  }

  #options(select, wanted, value) {
    const { make, say } = this.#kit;
    const key = JSON.stringify(wanted);
    if (select.dataset.key !== key) {
      select.dataset.key = key;
      select.replaceChildren(...wanted.map(([one, text]) => make("option", { value: one }, text)));
    }
    if (select.value !== String(value)) select.value = value;
  }

  #drawChecks(list, known, chosen, nameOf, field, isNullWhenEmpty = false) {
    const { make, say } = this.#kit;
    const key = JSON.stringify(known);
    if (list.dataset.key !== key) {
      list.dataset.key = key;
      const focused = this.#host.shadowRoot.activeElement?.value;
      const hadFocus = list.contains(this.#host.shadowRoot.activeElement);
      list.replaceChildren(...known.map((value) => {
        const onchange = () => {
          const now = [...list.querySelectorAll("input:checked")].map((one) => one.value);
          this.#choose(field, now.length || !isNullWhenEmpty ? now : null);
        };
        return this.#check(make("input", { type: "checkbox", value, onchange })).node;
      }));
      if (hadFocus) [...list.querySelectorAll("input")].find((one) => one.value === focused)?.focus();
    }
    list.hidden = !known.length;
    for (const label of list.children) {
      const [control, text] = label.children;
      control.checked = chosen.includes(control.value);
      say(text, nameOf(control.value));
    }
  }

  #drawTimes() {
    const { make, button, say, put } = this.#kit;
    const p = this.#parts;
    while (p.timeList.childElementCount > this.#times.length) p.timeList.lastElementChild.remove();
    while (p.timeList.childElementCount < this.#times.length) {
      const place = p.timeList.childElementCount;
      const input = make("input", {
        type: "time", required: true,
        oninput: ({ target }) => this.#type(place, target.value),
        onblur: () => this.#typed(),
        onkeydown: ({ key }) => key === "Enter" && this.#typed(),
      });
      p.timeList.append(make("span", { part: "time" }, input, button("remove-time", () => this.#removeTime(place), "×")));
    }
    [...p.timeList.children].forEach((row, place) => {
      const [input, remove] = row.children;
      const time = this.#times[place];
      if (input.value !== time && !(this.#typing && input === this.#host.shadowRoot.activeElement)) input.value = time;
      put(input, "aria-label", this.#t("time", { number: this.#host.locale.number.format(place + 1) }));
      put(remove, "aria-label", this.#t("removeTime", { time }));
      remove.hidden = this.#times.length === 1;
    });
    say(p.addTime, this.#t("addTime"));
    p.addTime.disabled = this.#times.length >= 24;
  }

  #drawZones({ timezone, proposed_timezone: proposed }) {
    const { make, say } = this.#kit;
    const p = this.#parts;
    if (![...p.zone.options].some(({ value }) => value === timezone)) {
      const zones = [...new Set(["UTC", timezone, ...(Intl.supportedValuesOf?.("timeZone") ?? [deviceZone()])])];
      const regions = [...new Set(zones.map((zone) => zone.split("/")[0]))];
      p.zone.replaceChildren(...regions.map((region) => {
        const of = zones.filter((zone) => zone.split("/")[0] === region);
        const options = of.map((zone) => make("option", { value: zone }, zone.slice(zone.indexOf("/") + 1).replaceAll("_", " ")));
        return of.length > 1 ? make("optgroup", { label: region }, ...options) : options[0];
      }));
    }
    p.zone.value = timezone;
    const device = deviceZone();
    const other = [proposed, device].find((zone) => zone && canonical(zone) !== canonical(timezone));
    p.useZone.hidden = !other;
    p.useZone.dataset.zone = other ?? "";
    say(p.useZone, this.#t(other === device ? "device" : "moved", { zone: other }));
  }

  #drawErrors() {
    const { say, put } = this.#kit;
    for (const [name, { error, controls, node }] of Object.entries(this.#parts.fields)) {
      const reason = this.#errors[name];
      say(error, reason ?? "");
      error.hidden = !reason;
      if (reason) node.hidden = false;
      const hint = node.querySelector(`#hint-${name}`);
      const described = [reason && error.id, hint && !hint.hidden && hint.id].filter(Boolean).join(" ");
      for (const control of controls) {
        put(control, "aria-invalid", reason ? "true" : null);
        put(control, "aria-describedby", described || null);
      }
    }
  }

  #drawComing() {
    const { make, say, put } = this.#kit;
    const p = this.#parts;
    const { number } = this.#host.locale;
    const when = new Intl.DateTimeFormat(number.resolvedOptions().locale, {
      weekday: "short", day: "numeric", month: "long", year: "numeric", hour: "numeric", minute: "2-digit", timeZone: "UTC",
    });
    say(p.runsTitle, this.#t("next"));
    p.runs.replaceChildren(...this.#runs.map((run) => {
      const time = make("time", { datetime: run.at }, when.format(Date.parse(`${run.local}Z`))); // what their clocks show
      const mark = run.is_clock_change ? [make("span", { part: "clock-change" }, this.#t("clocks"))] : [];
      return make("li", { part: "run" }, time, " ", ...mark); // letters of Arabic would join without
    }));
    p.runs.hidden = !this.#runs.length;
    p.noRuns.hidden = Boolean(this.#runs.length);
    say(p.noRuns, this.#t("none"));

    const { total = 0, items = [] } = this.#pending ?? {};
    say(p.pendingTitle, this.#t("pending", { count: total }));
    p.pending.replaceChildren(...items.map((item) => make("li", { part: "pending-item" },
      make("span", { dir: "auto" }, item.title), make("span", { class: "quiet" }, ` · ${this.#host.typeName(item.notification_type)}`))));
    p.pending.hidden = !items.length;
    say(p.more, total ? this.#t("more", { count: total - items.length }) : this.#t("nothing"));
    p.more.hidden = total > 0 && total === items.length;
    say(p.showPreview, this.#t("preview"));
    put(p.showPreview, "aria-expanded", String(Boolean(this.#preview)));
    put(p.showPreview, "aria-controls", "preview");
    say(p.send, this.#t("sendNow"));
    put(p.preview, "aria-label", this.#t("preview"));
    p.preview.hidden = !this.#preview;
    if (this.#preview) this.#drawPreview(this.#preview);
  }

  #drawPreview({ total, unread, digest }) {
    const { make } = this.#kit;
    const counted = make("p", {}, `${this.#t("total", { count: total })} · ${this.#t("unread", { count: unread })}`);
    const top = digest.top_notifications.map(({ title }) => make("li", { dir: "auto" }, title));
    const types = Object.entries(digest.notifications_by_type).map(([type, { count }]) =>
      make("li", {}, `${this.#host.typeName(type)}: ${this.#host.count(count)}`));
    this.#parts.preview.replaceChildren(counted, ...(top.length ? [make("ul", {}, ...top)] : []),
      ...(types.length ? [make("h3", {}, this.#t("byType")), make("ul", {}, ...types)] : []));
  }
}
