/** Types of client.js, the browser side of Carillon. The wire: docs/protocol.md; error codes: docs/errors.md. */

export interface HubOptions {
  /** Where the hub is: "https://hub.example", also with a path before it. Default: this page's origin. */
  url?: string;
  /**
   * The user's token, fetched when one is needed; kept in memory only. `refresh`: the last one was refused
   * or runs out, give a new one. Nothing (null, "") means signed out: the hub closes.
   */
  getToken(options: { refresh: boolean }): string | null | undefined | Promise<string | null | undefined>;
  /** Aborting it disconnects. */
  signal?: AbortSignal;
  /** A page hidden for so long hangs up, and comes back with what it missed. 0: never. Default 600000. */
  hiddenAfterMs?: number;
  /** How long a ticket, a welcome or a reply may take. Default 10000. */
  timeoutMs?: number;
  /** Origins besides our own that link() may lead to. Default: any https. */
  linkOrigins?: readonly string[];
  /** Web Push, where the usual does not fit. */
  push?: PushOptions;
  /** Stand-ins where there is no browser. */
  WebSocket?: typeof WebSocket;
  fetch?: typeof fetch;
}

/**
 * connecting: a ticket is fetched, a socket opened. open: everything is here and live. recovering: connected,
 * and what was missed is on its way. offline: no link; the next attempt is `retryInMs` away, or waits for the
 * page to be looked at (`hidden`). closed: it will not come back by itself.
 */
export type State = "connecting" | "open" | "recovering" | "offline" | "closed";

export interface StateOf {
  state: State;
  /**
   * Why: new, connect, reconnect, gap, network, timeout, silent, hidden, disconnected, signed_out, bad_frame, or
   * the close code in words: unauthorized, forbidden, not_found, auth_timeout, too_many_connections,
   * token_expired, slow_down, unsupported, internal, restart, overloaded; or the code of a failed request.
   */
  reason?: string;
  /** The close code, where there was one. */
  code?: number;
  /** When offline: ms until the next attempt. */
  retryInMs?: number;
}

export type Priority = "low" | "normal" | "high" | "urgent";
export type Positions = Record<string, number>;

/** A notification and what this person did with it (in an event: nothing yet). Times are RFC 3339. */
export interface Notification {
  id: string;
  title: string;
  message: string;
  notification_type: string;
  priority: Priority;
  /** Not checked: use link(). */
  action_url: string | null;
  channels?: string[];
  metadata: Record<string, unknown>;
  created_at: string;
  expires_at?: string | null;
  updated_at?: string | null;
  collapse_key?: string | null;
  group_key?: string | null;
  read: boolean;
  seen: boolean;
  archived: boolean;
  snoozed_until: string | null;
  /** The stream it came by: "user", "tenant" or "topic:<name>", and its place there. */
  stream?: string;
  seq?: number;
}

/** What a notification says, without what this person did with it. */
export type Content = Omit<Notification, "read" | "seen" | "archived" | "snoozed_until" | "stream" | "seq">;

interface Placed {
  stream: string;
  seq: number;
}

/** What `read`, `unread`, `seen`, `archived`, `unarchived` and `snoozed` say; one id stands alone besides. */
interface Changed extends Placed {
  notification_id?: string;
  notification_ids?: string[];
}

interface TopicChanged extends Placed {
  topic: string;
  joined_seq?: number;
}

export interface HubEvents {
  state: StateOf;
  /** New, shown once however many streams brought it. Also of a subscribed channel: then it is not in the inbox. */
  notification: Placed & { notification: Content; timestamp: string };
  updated: Placed & { notification: Content };
  recalled: Placed & { notification_id: string; reason?: "recalled" | "expired" };
  read: Changed;
  unread: Changed;
  seen: Changed;
  archived: Changed;
  unarchived: Changed;
  snoozed: Changed & { until: string };
  read_all: Placed & { positions: Positions };
  followed: TopicChanged;
  unfollowed: TopicChanged;
  muted: TopicChanged;
  unmuted: TopicChanged;
  /** The unread count as the user should see it changed; from 1000 on show "999+". */
  count: { unread: number };
  /** inbox.items changed. */
  inbox: {};
  /** Entries are missing. They are asked for (the state is `recovering`), or, `recovered: false`, lost to this client. */
  gap: { stream?: string; after?: number; before?: number; recovered?: false };
  /** Continuity could not be given: the inbox was replaced by this snapshot. */
  resync: { unread: number; items: Notification[] };
  /** Ephemeral: at most once, no history. */
  message: { channel: string; data: unknown };
  presence: Record<string, unknown>;
  welcome: {
    connection_id: string;
    user_id: string;
    tenant_id: string;
    epoch: string;
    positions: Positions;
    unread_count: number;
    heartbeat_ms: number;
  };
  /** Push was turned on or off in this browser, or mended. */
  push: PushStatus;
  /** A notification was clicked, and this page is to show it: after this event it goes to `url`, see PushOptions.open. */
  open: { url: string; notification_id?: string; action?: string };
  /** What failed in the background, or was refused by the server and belongs to no call. */
  error: { error: HubError };
}

export type HubEvent = { [T in keyof HubEvents]: HubEvents[T] & { type: T } }[keyof HubEvents];

export interface Cancellable {
  signal?: AbortSignal;
}

export interface Emitter<Events> {
  /** Listen; the answer stops it. "*" hears every event. */
  on<T extends keyof Events>(
    type: T,
    listener: (event: Events[T] & { type: T }) => void,
    options?: Cancellable,
  ): () => void;
  on(type: "*", listener: (event: HubEvent) => void, options?: Cancellable): () => void;
  /** The events from now on. A reader who falls 10,000 behind gets `{type: "overflow"}` in place of those. */
  events(
    options?: Cancellable & { types?: readonly (keyof Events)[] },
  ): AsyncIterableIterator<HubEvent | { type: "overflow" }>;
  [Symbol.asyncIterator](): AsyncIterableIterator<HubEvent | { type: "overflow" }>;
}

export interface ListQuery extends Cancellable {
  limit?: number;
  /** `nextCursor` of the page before. */
  cursor?: string;
  state?: "all" | "unread" | "read" | "unseen" | "archived" | "snoozed";
  type?: string | readonly string[];
  min_priority?: Priority;
  stream?: string | readonly string[];
}

export interface Page {
  items: Notification[];
  nextCursor: string | null;
  unread: number;
}

/**
 * Changes are shown at once and taken back when the server refuses them (the promise rejects). They go over the
 * socket, or by REST while it is down. A signal ends the wait, not a change that has been sent.
 */
export interface Inbox {
  /** What is known here, newest first, without the archived, snoozed and expired. */
  readonly items: Notification[];
  readonly unread: number;
  /** A page from the server; it joins `items`. */
  list(query?: ListQuery): Promise<Page>;
  get(id: string, options?: Cancellable): Promise<Notification>;
  markRead(id: string | string[], options?: Cancellable): Promise<void>;
  markUnread(id: string | string[], options?: Cancellable): Promise<void>;
  markSeen(id: string | string[], options?: Cancellable): Promise<void>;
  archive(id: string | string[], options?: Cancellable): Promise<void>;
  unarchive(id: string | string[], options?: Cancellable): Promise<void>;
  snooze(id: string | string[], until: Date | string | number, options?: Cancellable): Promise<void>;
  /** Everything that is here now; what arrives meanwhile stays unread. */
  markAllRead(options?: Cancellable): Promise<void>;
  /** Take back the last change made here (a snooze becomes unread). False: there is none to take back. */
  undo(options?: Cancellable): Promise<boolean>;
}

export interface Topics {
  /** For all devices of this person, until unfollowed. */
  follow(topic: string, options?: Cancellable): Promise<void>;
  unfollow(topic: string, options?: Cancellable): Promise<void>;
  /** Keep following, without live notifications and without counting as unread. */
  mute(topic: string, options?: Cancellable): Promise<void>;
  unmute(topic: string, options?: Cancellable): Promise<void>;
}

export interface SubscribeOptions extends Cancellable {
  /** Only these types. Default: all. */
  types?: readonly string[];
  /** This priority or above. */
  minPriority?: Priority;
}

/** Listening to one channel, over reconnects, until unsubscribed. It touches neither inbox nor unread count. */
export interface Subscription extends Emitter<Pick<HubEvents, "notification" | "updated" | "recalled" | "message" | "gap" | "error">> {
  readonly channel: string;
  unsubscribe(): Promise<void>;
}

export interface PushOptions {
  /** The worker's registration, where the page makes it itself. That worker imports the hub's sw.js. */
  registration?: ServiceWorkerRegistration | Promise<ServiceWorkerRegistration>;
  /** Or the page's own worker, to be registered: it imports the hub's sw.js. Default: the hub's sw.js itself. */
  worker?: string;
  workerType?: "classic" | "module";
  /** Of the worker. Default: "carillon-push/" below the hub's sw.js, which controls no page; with `worker`, its folder. */
  scope?: string;
  /** Show what was clicked, in place of `location.assign(url)`. The link has been checked. */
  open?(url: string, about: { notification_id?: string; action?: string }): void;
}

/**
 * on: this browser gets what is pushed to the person. off: enable() would turn it on. unavailable: it would not.
 */
export interface PushStatus {
  state: "on" | "off" | "unavailable";
  /**
   * Why. Of off: not_enabled, signed_out, lost (the browser dropped it; the next start mends it), key_changed (the hub
   * has a new key; likewise). Of unavailable: insecure, unsupported, needs_home_screen (iPhone and iPad), needs_worker
   * (the hub is another site), denied. Of on: null.
   */
  reason: string | null;
  permission: NotificationPermission;
  /** Of this browser among the person's push subscriptions. */
  id: string | null;
  /** What a person can do about it, in English, or null. */
  message: string | null;
}

/**
 * Notifications while no page is open. The page's own words come first; only then, in a click, enable(). From then on
 * every start sends the subscription again, makes a lost one anew and replaces one of an old key.
 */
export interface Push {
  /**
   * Call it in a click: it asks for permission at once. `name`: what the person calls this device. Rejects with one of
   * the reasons above, or dismissed, no_gesture, push_service, worker_failed.
   */
  enable(options?: { name?: string }): Promise<PushStatus>;
  /** Turn it off in this browser and clear its screen. To be called before a logout, while there is a token. */
  disable(): Promise<PushStatus>;
  status(): Promise<PushStatus>;
  /** Push a notification to this browser alone. `status`: what became of it at the push service; `reason`: in words. */
  test(): Promise<{
    status: "sent" | "gone" | "refused" | "too_large" | "throttled" | "retry" | "unknown" | "blocked";
    reason: string;
  }>;
}

export type DigestFrequency = "daily" | "weekdays" | "weekly" | "hourly" | "off";

/** What a person wants of their digest (docs/digest.md). */
export interface DigestSettings {
  is_enabled: boolean;
  /** HH:MM of the wall clock; of an hourly digest only the minute of the first counts. */
  delivery_times: string[];
  /** Of IANA's. */
  timezone: string;
  frequency: DigestFrequency;
  /** Of a weekly digest, and of weekly_types: 0 is Monday. */
  weekly_day: number | null;
  /** null: every type. */
  include_types: string[] | null;
  exclude_types: string[];
  /** These stand only in the digest of weekly_day. */
  weekly_types: string[];
  exclude_weekends: boolean;
  min_priority: Priority;
  unread_only: boolean;
  channels: string[];
  /** One that says so when there was nothing for a week. */
  all_quiet: boolean;
  /** In the inbox only, for who is in the application when it comes. */
  inbox_when_active: boolean;
}

export interface DigestRun {
  date: string;
  slot: number;
  at: string;
  /** What the person's clock shows then, without an offset. */
  local: string;
  utc_offset: string;
  /** Their clocks change on this date. */
  is_clock_change: boolean;
}

/** One's own digest. */
export interface Digest {
  get(options?: Cancellable & { deviceTimezone?: string }): Promise<
    DigestSettings & {
      delivery_time: string;
      next_run: DigestRun | null;
      /** What `deviceTimezone` has said for 24 hours, where that is another time. */
      proposed_timezone: string | null;
    }
  >;
  /** In place of all that was set; what is left out is as by default. What get() gave may be changed and put back. */
  put(settings: Partial<DigestSettings> & { delivery_time?: string }, options?: Cancellable): ReturnType<Digest["get"]>;
  /** What it would say if it were due now. Nothing is sent or moved. */
  preview(options?: Cancellable): Promise<{ total: number; unread: number; digest: Record<string, unknown> }>;
  /** The next ten; with `days`, up to 400, all within so many. */
  nextRuns(options?: Cancellable & { days?: number }): Promise<{ timezone: string; runs: DigestRun[] }>;
  /** What waits for the next one, the newest first; `limit` up to 200, 50 where it is not given. */
  pending(options?: Cancellable & { limit?: number }): Promise<{
    total: number;
    items: (Pick<Notification, "id" | "title" | "notification_type" | "priority" | "created_at"> & { read: boolean })[];
  }>;
  /** All of it stands in the next one too, unless `moveWindow`. Rejects with `conflict` where nothing has come in. */
  sendNow(options?: Cancellable & { moveWindow?: boolean }): Promise<Notification>;
}

export interface Hub extends Emitter<HubEvents> {
  readonly state: StateOf;
  readonly inbox: Inbox;
  readonly topics: Topics;
  readonly push: Push;
  readonly digest: Digest;
  readonly channels: {
    /** Settles when the server has agreed. A signal that aborts later unsubscribes. */
    subscribe(channel: string, options?: SubscribeOptions): Promise<Subscription>;
  };
  /** Connect and stay connected, until the signal aborts. Settles with the first open, or with why there is none. */
  connect(options?: Cancellable): Promise<Hub>;
  /** Hang up and stay away; connect() goes on from there. */
  disconnect(): void;
  /** Ephemeral, to whoever listens now; only while connected. */
  publish(channel: string, data: unknown, options?: Cancellable): Promise<void>;
  /** Any other call of the REST API as this person: JSON in, JSON out ({} where there is none), HubError for the rest. */
  request(method: string, path: string, options?: Cancellable & { body?: unknown }): Promise<unknown>;
  /** Where a notification leads, checked, or null. */
  link(notification: Pick<Notification, "action_url">): string | null;
  /** The server's time as well as it is known here, ms since 1970. */
  now(): number;
}

/** Every failure a call can meet. */
export class HubError extends Error {
  constructor(code: string, message?: string, options?: { status?: number; retryAfterMs?: number; details?: { path: string; message: string }[]; cause?: unknown });
  /** A row of docs/errors.md; or offline, timeout, network, no_token, signed_out, unsupported, refused; or a reason of push.enable(). */
  readonly code: string;
  /** Of the HTTP answer, or 0. */
  readonly status: number;
  readonly retryAfterMs: number;
  /** Of `invalid`: every member of the body that is at fault, and why. */
  readonly details: readonly { path: string; message: string }[];
}

/** A hub that is not connected yet. */
export function createHub(options: HubOptions): Hub;

/** The link if it may be followed: a path of this site, or https (to one of `origins`, where given). Else null. */
export function safeLink(link: unknown, origins?: readonly string[]): string | null;

/** The delay before an attempt, in ms, fully jittered: up to 1 s, 2 s, 4 s … 30 s. `attempt` counts from 0. */
export function backoff(attempt: number, random?: () => number): number;
