/** The digest for client.js, which loads this when it is needed. Types: client.d.ts; what it is: docs/digest.md. */

const DIGEST = "/api/v1/digest";

export class Digest {
  #hub;

  constructor(hub) {
    this.#hub = hub;
  }

  #get(path, { limit, days, deviceTimezone, signal } = {}) {
    const asked = Object.entries({ limit, days, device_timezone: deviceTimezone }).filter(([, value]) => value !== undefined);
    return this.#hub.request("GET", `${DIGEST}/${path}${asked.length ? `?${new URLSearchParams(asked)}` : ""}`, { signal });
  }

  get(options) { return this.#get("subscription", options); }

  /** What get() gave, changed: what only an answer has is left out. */
  put({ next_run, delivery_time, proposed_timezone, ...settings }, { signal } = {}) {
    const body = settings.delivery_times ? settings : { ...settings, delivery_time };
    return this.#hub.request("PUT", `${DIGEST}/subscription`, { body, signal });
  }

  preview({ signal } = {}) { return this.#get("preview", { signal }); }

  nextRuns({ days, signal } = {}) { return this.#get(days ? "preview" : "next-runs", { days, signal }); }

  pending(options) { return this.#get("pending", options); }

  sendNow({ moveWindow, signal } = {}) {
    return this.#hub.request("POST", `${DIGEST}/run${moveWindow ? "?move_window=true" : ""}`, { signal });
  }
}
