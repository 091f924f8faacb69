"""
What one push says: JSON that is a Declarative Web Push and what a service worker reads, in one. Pure.

`web_push: 8030` with `notification` is shown by browsers that know it even where no worker runs (W3C Push API,
declarative push messages; explained at github.com/WebKit/explainers/tree/main/DeclarativeWebPush). The members beside
it are those of AIVO's document, for its worker and for ours. What does not fit is trimmed in a declared order; what
fits even then not is fetched by the worker (X-25, X-27).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from uuid import UUID

import msgspec

from push.encryption import MAX_PLAINTEXT

#: What says that a message is declarative: the number of the RFC of Web Push.
DECLARATIVE = 8030

#: No browser shows more of a text than this; where there is no room for so much, the rest is fetched.
_LEAST_TEXT = 160
_LEAST_TITLE = 60

_CUT = "…"

#: What stands on a lock screen that must not show what it is about, and on the button that opens it.
WORDS: Mapping[str, tuple[str, str]] = {
    "en": ("You have a new notification", "View"),
    "ar": ("لديك إشعار جديد", "عرض"),
    "de": ("Sie haben eine neue Benachrichtigung", "Ansehen"),
    "es": ("Tiene una notificación nueva", "Ver"),
    "fr": ("Vous avez une nouvelle notification", "Voir"),
    "he": ("יש לך התראה חדשה", "הצגה"),
    "hi": ("आपके लिए एक नई सूचना है", "देखें"),
    "it": ("Hai una nuova notifica", "Apri"),
    "ja": ("新しい通知があります", "表示"),
    "nl": ("U hebt een nieuwe melding", "Bekijken"),
    "pl": ("Masz nowe powiadomienie", "Zobacz"),
    "pt": ("Você tem uma nova notificação", "Ver"),
    "ru": ("У вас новое уведомление", "Открыть"),
    "rw": ("Ufite ubutumwa bushya", "Reba"),
    "sw": ("Una arifa mpya", "Tazama"),
    "tr": ("Yeni bir bildiriminiz var", "Göster"),
    "uk": ("У вас нове сповіщення", "Відкрити"),
    "zh": ("您有一条新通知", "查看"),
}

#: Scripts that run from right to left, by language.
_RIGHT_TO_LEFT = frozenset({"ar", "fa", "he", "ur", "ps", "dv", "yi"})


class Action(msgspec.Struct, frozen=True, omit_defaults=True):
    """A button. url: where it leads; None: where the notification leads."""

    action: str
    title: str
    url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """
    One notification for one browser.

    url: where it leads, absolute or a path of the application. home: where one leads that says nothing.
    receipt: the token of what the browser reports. fetch: the token by which it gets the whole, once.
    reads: notifications that were read elsewhere and may still be shown here. unread: for the badge; None: not known.
    """

    notification_id: UUID
    notification_type: str
    title: str = field(repr=False)
    text: str = field(repr=False)
    url: str | None = field(default=None, repr=False)
    home: str = "/"
    priority: str = "normal"
    locale: str | None = None
    tag: str | None = None
    icon: str | None = None
    badge: str | None = None
    image: str | None = None
    actions: Sequence[Action] | None = None  # None: one that opens it, where it leads somewhere
    receipt: str = field(default="", repr=False)
    fetch: str = field(default="", repr=False)
    reads: Sequence[UUID] = ()
    unread: int | None = None
    privacy: Literal["full", "title_only", "private"] = "full"


_ENCODER = msgspec.json.Encoder()


def build(push: Push, budget: int = MAX_PLAINTEXT) -> bytes:
    """
    The payload, of at most so many bytes.

    Trimmed in this order: the image, what is said twice for other workers, icon and badge, all but the first button,
    all buttons, ids that were read, the end of the text. If that is not enough, it says no more than that there is
    something, and the worker fetches the rest; then goes the title, too, and where it leads without a worker.
    """
    said = _said(push)
    for trim in _TRIMS:
        if len(_ENCODER.encode(said)) <= budget:
            break
        trim(said)
    encoded = _ENCODER.encode(said)
    if len(encoded) <= budget:
        return encoded
    cut = _shortened(said, len(encoded) - budget)
    if cut is not None:
        return _ENCODER.encode(cut)
    untitled = replace(push, title=words(push.locale)[0])
    for less in (push, untitled, replace(untitled, home="/")):
        encoded = _ENCODER.encode(_spilled(less))
        if len(encoded) <= budget:
            return encoded
    raise ValueError(f"a payload does not fit into {budget} bytes")


def whole(push: Push) -> Mapping[str, Any]:
    """What a worker gets that fetches: everything, whatever its size and privacy."""
    return _said(push, is_fetched=True)


def words(locale: str | None) -> tuple[str, str]:
    """That there is something, and what opens it, in the language of the person; else in English."""
    return WORDS.get(_language(locale), WORDS["en"])


def _said(push: Push, *, is_fetched: bool = False) -> dict[str, Any]:
    privacy = "full" if is_fetched else push.privacy
    something, view = words(push.locale)
    is_private = privacy == "private"
    title = something if is_private else push.title
    text = push.text if privacy == "full" else ""
    url = None if is_private else push.url
    given = [] if push.actions is None or privacy != "full" else push.actions
    # AIVO's worker opens a page by the button `view` alone; browsers by themselves need no button for that.
    actions = (
        given
        if given or (push.actions is not None and privacy == "full") or not url
        else [Action("view", view)]
    )
    data: dict[str, Any] = {"notification_id": str(push.notification_id), "receipt": push.receipt}
    if not is_private:
        data["notification_type"] = push.notification_type
    tag = push.tag or str(push.notification_id)
    shown = {
        "title": title,
        "body": text,
        "navigate": url or push.home,
        "tag": tag,
        "silent": push.priority == "low",
        "data": data,
        **({"lang": push.locale} if push.locale else {}),
        **({"dir": "rtl"} if _language(push.locale) in _RIGHT_TO_LEFT else {}),
        **({"icon": push.icon} if push.icon else {}),
        **({"image": push.image} if push.image and privacy == "full" else {}),
        **(
            {
                "actions": [
                    {"action": one.action, "title": one.title, "navigate": one.url or url or push.home}
                    for one in given
                ]
            }
            if given
            else {}
        ),
    }
    said: dict[str, Any] = {
        "web_push": DECLARATIVE,
        "mutable": True,
        "notification": shown,
        "title": title,
        "body": text,
        "message": text,
        "tag": tag,
        "data": {**data, "action_url": url},
        "actions": list(actions),
        "priority": push.priority,
        "requireInteraction": push.priority == "urgent",
    }
    if push.icon:
        said["icon"] = push.icon
    if push.badge:
        said["badge"] = push.badge
    if "image" in shown:
        said["image"] = push.image
    if push.unread is not None:
        said["app_badge"] = push.unread
    if push.reads:
        said["reads"] = [str(one) for one in push.reads]
    if privacy != "full":
        said["fetch"] = {"id": str(push.notification_id), "token": push.fetch, "when": "clicked"}
    return said


# --- what goes first when there is no room ---------------------------------------------------------------------------


def _no_image(said: dict[str, Any]) -> None:
    said.pop("image", None)
    said["notification"].pop("image", None)


def _not_twice(said: dict[str, Any]) -> None:
    said.pop("message", None)  # as `body`


def _no_icon(said: dict[str, Any]) -> None:
    for name in ("icon", "badge"):
        said.pop(name, None)
        said["notification"].pop(name, None)


def _one_button(said: dict[str, Any]) -> None:
    said["actions"] = said["actions"][:1]
    if "actions" in said["notification"]:
        said["notification"]["actions"] = said["notification"]["actions"][:1]


def _no_button(said: dict[str, Any]) -> None:
    said["actions"] = []
    said["notification"].pop("actions", None)


def _fewer_reads(said: dict[str, Any]) -> None:
    said.pop("reads", None)


_TRIMS: Sequence[Callable[[dict[str, Any]], None]] = (
    _no_image,
    _not_twice,
    _no_icon,
    _one_button,
    _no_button,
    _fewer_reads,
)


def _shortened(said: dict[str, Any], excess: int) -> dict[str, Any] | None:
    """With less of the text, which stands there twice; None when too little would be left to be of use."""
    text = said["body"]
    room = len(_ENCODER.encode(text)) - 2 - (excess + 1) // 2 - len(_CUT.encode())
    cut = fitting(text, room)
    if len(cut) < min(_LEAST_TEXT, len(text)) or room <= 0:
        return None
    return said | {
        "body": cut + _CUT,
        "notification": said["notification"] | {"body": cut + _CUT},
    }


def _spilled(push: Push) -> dict[str, Any]:
    """
    That there is something, for browsers without a worker; the rest is fetched before it is shown.

    It replaces, sounds and counts as the whole of it: what comes twice, or is not fetched, is still one.
    """
    something, _ = words(push.locale)
    title = something if push.privacy == "private" else fitting(push.title, 4 * _LEAST_TITLE)
    title = title if title == push.title or push.privacy == "private" else title + _CUT
    id_ = str(push.notification_id)
    tag = push.tag or id_
    data = {"notification_id": id_, "action_url": None, "receipt": push.receipt}
    when = "shown" if push.privacy == "full" else "clicked"
    shown = {
        "title": title,
        "body": "",
        "navigate": push.home,
        "tag": tag,
        "silent": push.priority == "low",
        "data": data,
    }
    return {
        "web_push": DECLARATIVE,
        "mutable": True,
        "notification": shown,
        "title": title,
        "body": "",
        "message": "",
        "tag": tag,
        "data": data,
        "actions": [],
        "priority": push.priority,
        "requireInteraction": push.priority == "urgent",
        **({"app_badge": push.unread} if push.unread is not None else {}),
        "fetch": {"id": id_, "token": push.fetch, "when": when},
    }


def fitting(text: str, room: int) -> str:
    """The beginning of a text that takes at most so many bytes as JSON, without its quotes."""
    if room <= 0:
        return ""
    least, most = 0, min(len(text), room)
    while least < most:
        middle = (least + most + 1) // 2
        if len(_ENCODER.encode(text[:middle])) - 2 <= room:
            least = middle
        else:
            most = middle - 1
    return text[:least].rstrip()


def _language(locale: str | None) -> str:
    return (locale or "").replace("_", "-").partition("-")[0].lower()
