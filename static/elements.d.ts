/** Types of elements.js, Carillon's web components. How they are used: docs/elements.md. */

import type { DigestSettings, Hub, HubOptions, Notification } from "./client.js";

/** A text, or one by plural category (zero, one, two, few, many, other); `{count}`, `{title}` … are put in. */
export type Text = string | Partial<Record<Intl.LDMLPluralRule, string>>;

/** Texts by key; static/texts/de.js has them all. `types`: what kinds of notifications are called. */
export interface Texts {
  [key: string]: Text | Record<string, string> | undefined;
  types?: Record<string, string>;
  channels?: Record<string, string>;
  /** Of notify-digest-settings; static/digest-settings.js has them all in English. */
  digest?: Record<string, string | Record<string, string>>;
}

/** By language. English is there; another joins when it is wanted or when you add it. */
export const texts: Record<string, Texts>;

/** Those that are shipped. */
export const languages: readonly string[];

/** The hub of every element that was given none, now and later. */
export function useHub(hub: Hub | null): void;

interface NotifyElement extends HTMLElement {
  /** Wins over url and getToken, and those over useHub(). One that was never connected is connected. */
  hub: Hub | null;
  /** As in createHub(). Elements with the same function and url share one hub, which ends with the last of them. */
  getToken: HubOptions["getToken"] | null;
  /** Attribute `url`: where that hub is. Default: this page's origin. */
  url: string;
  /** Attribute `theme`: "light" or "dark". Default: the page's color-scheme. */
  theme: string;
  /** To say in place of the language's own. */
  texts: Texts;
}

/** A button that says how many are unread, and opens the inbox. */
export class NotifyBell extends HTMLElement {
  /** Attribute `max`: the badge counts no further. Default 99. */
  max: number;
  readonly isOpen: boolean;
  open(): void;
  close(): void;
}
export interface NotifyBell extends NotifyElement {}

/** What a person was told, and what they do with it. */
export class NotifyInbox extends HTMLElement {
  /** Attribute `page-size`: how many at a time. Default 30. */
  pageSize: number;
  /** What a notification looks like, in place of ours; the node lies in the page's own tree. */
  renderItem: ((notification: Notification) => HTMLElement) | null;
  readonly state: "loading" | "ready" | "empty" | "error";
  /** Read the first page again. */
  reload(): Promise<void>;
}
export interface NotifyInbox extends NotifyElement {}

/** What has just come, for a moment. */
export class NotifyToasts extends HTMLElement {
  /** Attribute `max`: how many at once. Default 3. */
  max: number;
  /** Attribute `duration`: how long one stays, in ms. Default 6000. Urgent ones stay until they are dismissed. */
  duration: number;
  /** Attribute `position`. Default bottom-end. */
  position: "bottom-end" | "bottom-start" | "top-end" | "top-start";
  /** Take them all away. */
  clear(): void;
}
export interface NotifyToasts extends NotifyElement {}

/** What by which way, whether on this device, and what was stopped. */
export class NotifyPreferences extends HTMLElement {
  /** Attribute `types`, with blanks between: kinds that have a line of their own, beside those that are set. */
  types: readonly string[];
  /** Attribute `channels`, with blanks between. Default: push email sms whatsapp telegram. */
  channels: readonly string[];
  /** Read everything again. */
  reload(): Promise<void>;
}
export interface NotifyPreferences extends NotifyElement {}

/** When the digest comes and what stands in it, when the next ones come, and what waits for them. */
export class NotifyDigestSettings extends HTMLElement {
  /** Attribute `types`, with blanks between: kinds to choose from, beside those that are chosen. */
  types: readonly string[];
  /** Attribute `channels`, with blanks between. null: in_app push email sms whatsapp telegram. */
  channels: readonly string[] | null;
  /** Read everything again. */
  reload(): Promise<void>;
}
export interface NotifyDigestSettings extends NotifyElement {}

export interface NotifyEvents {
  /** A notification was clicked. Cancelled, it is neither marked read nor followed to its link. */
  "notify-click": CustomEvent<{ notification: Notification; link: string | null }>;
  /** Something was done with a notification, or (read-all, undo) with several. */
  "notify-action": CustomEvent<{
    action: "read" | "unread" | "archive" | "snooze" | "read-all" | "undo";
    notification: Notification | null;
  }>;
  /** Something failed. The element has said so where a person had asked for it. */
  "notify-error": CustomEvent<{ error: Error }>;
  /** The bell's inbox is open. */
  "notify-open": CustomEvent<{}>;
  /** The bell's inbox is closed. */
  "notify-close": CustomEvent<{}>;
  /** The unread count changed. */
  "notify-count": CustomEvent<{ unread: number }>;
  /** A notification came. Cancelled, it makes no toast. */
  "notify-toast": CustomEvent<{ notification: Notification }>;
  /** Preferences were saved. */
  "notify-change": CustomEvent<{ matrix: Record<string, Record<string, boolean>> }>;
  /** Settings of the digest are about to be saved. Cancelled, the changes are taken back. */
  "notify-save": CustomEvent<{ settings: DigestSettings; changes: Partial<DigestSettings> }>;
  /** Settings of the digest were saved. */
  "notify-digest": CustomEvent<{ settings: DigestSettings }>;
  /** A digest is asked for now. Cancelled, none is sent. */
  "notify-send": CustomEvent<{ settings: DigestSettings }>;
}

declare global {
  interface HTMLElementTagNameMap {
    "notify-bell": NotifyBell;
    "notify-inbox": NotifyInbox;
    "notify-toasts": NotifyToasts;
    "notify-preferences": NotifyPreferences;
    "notify-digest-settings": NotifyDigestSettings;
  }
  interface HTMLElementEventMap extends NotifyEvents {}
}
