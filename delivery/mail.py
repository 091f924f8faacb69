"""
A message -> a mail: its headers, its text and its HTML. Pure.

The header lines are written here and not by the email package: the one of Python 3.11 decodes `=?…?=` into line
ends (CVE-2024-6923) and, where it folds a long display name, drops the quotes that keep a comma from beginning
another address. Of that package comes what has no such words in it: the body.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from html import escape
from typing import NamedTuple
from unicodedata import category
from urllib.parse import quote, urlsplit

from delivery.channel import Message

#: Longer names of tenants and types are cut in List-Id and Feedback-ID, which nobody is addressed by.
_LABEL = 40

#: RFC 5322 §2.1.1: what a line may have before its end.
_LINE_MAX_BYTES = 998

#: Of one encoded word, so that with its frame it has at most 75 characters (RFC 2047 §2).
_WORD_BYTES = 45

#: What stands in a line as it is; longer or other text becomes encoded words.
_PLAIN_LENGTH = 66
_PLAIN_SUBJECT = re.compile(r"[!-~]([ -~]*[!-~])?")

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"  # RFC 5322 §3.2.3

#: Atoms and single spaces: a display name that needs neither quotes nor encoding.
_PLAIN_NAME = re.compile(rf"{_ATOM}( {_ATOM})*")

#: A dot-atom on both sides (RFC 5322 §3.4.1): what needs no quotes, and nothing can be hidden in.
_ADDRESS = re.compile(rf"{_ATOM}(\.{_ATOM})*@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")

_REFERENCE = re.compile(r"[A-Za-z0-9._-]{1,200}")
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*")


class BadMail(ValueError):
    """What cannot be said in a mail. The sentence repeats none of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """
    Who writes. address, reply_to, unsubscribe: addr-specs in ASCII (RFC 5322 §3.4.1).

    unsubscribe: a mailbox for who unsubscribes by a mail, whose subject is then the token of the link.
    """

    address: str
    name: str | None = None
    reply_to: str | None = None
    unsubscribe: str | None = None

    @property
    def domain(self) -> str:
        return self.address.rpartition("@")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """
    A mail in the parts that a provider's API asks for; `wire` makes one message of them.

    headers: what stands beside From, To, Reply-To, Subject and Date; names in the order in which they are sent.
    """

    sender: Sender
    recipient: str = field(repr=False)
    recipient_name: str | None = field(repr=False)
    subject: str = field(repr=False)
    text: str = field(repr=False)
    html: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)


def header_faults(text: str) -> str | None:
    """
    Why a text must not become part of a mail header; None where it may.

    Line ends and other controls begin a new header or end a line; U+2028 and U+2029 do so in Python; `=?` begins an
    encoded word, by which any of them come in disguise (RFC 2047).
    """
    if "=?" in text:
        return "must not contain =?, which begins an encoded word in a mail header"
    if any(category(character) in _UNPRINTABLE for character in text):
        return "must not contain line ends or other control characters, which a mail header cannot hold"
    return None


def is_address(text: str) -> bool:
    """Whether it is one addr-spec in ASCII that stands in a header, and in an SMTP command, without quotes."""
    return len(text) <= 254 and _ADDRESS.fullmatch(text) is not None and "=?" not in text


#: Controls, halves of surrogate pairs, the separators of lines and of paragraphs.
_UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})


def compose(message: Message, sender: Sender) -> Mail:
    """
    The mail that says a message. The same message makes the same mail, with the same Message-ID.

    Raises BadMail.
    """
    for what, words in (("title", message.title), ("name of the recipient", message.recipient_name or "")):
        if fault := header_faults(words):
            raise BadMail(f"the {what} {fault}")
    if not is_address(message.address.value):
        raise BadMail("the address is no e-mail address in ASCII")
    for url in (message.action_url, message.unsubscribe_url, message.preferences_url):
        if url is not None and not _is_link(url):
            raise BadMail("a link is no absolute http or https URL")
    try:
        f"{message.title}{message.text}".encode()
    except UnicodeEncodeError:
        raise BadMail("title and text must be what Unicode can say") from None
    return Mail(
        sender=sender,
        recipient=message.address.value,
        recipient_name=message.recipient_name,
        subject=message.title.strip(),
        text=_text(message),
        html=_html(message),
        headers=dict(_headers(message, sender)),
    )


def wire(mail: Mail, now: datetime) -> bytes:
    """
    The mail as SMTP carries it: ASCII, CRLF, no line above 998 bytes, dots not doubled.

    now: for Date. Raises BadMail where a header line came out that is not one of those meant.
    """
    sender = mail.sender
    lines = [
        ("From", _mailbox(sender.address, sender.name)),
        ("To", _mailbox(mail.recipient, mail.recipient_name)),
        ("Subject", _words(mail.subject, _PLAIN_SUBJECT)),
        ("Date", format_datetime(now)),
        *mail.headers.items(),
    ]
    if sender.reply_to is not None:
        lines.insert(1, ("Reply-To", f"<{sender.reply_to}>"))
    body = EmailMessage(policy=SMTP)
    body.set_content(mail.text, cte="quoted-printable")
    body.add_alternative(mail.html, subtype="html", cte="quoted-printable")
    head = "".join(f"{name}: {value}\r\n" for name, value in lines).encode()
    made = head + body.as_bytes()
    _check(made, [name for name, _ in lines])
    return made


def _check(made: bytes, names: Sequence[str]) -> None:
    """Whether a mail has just the headers that were meant, each once, and nothing that a server would reread."""
    head = made.partition(b"\r\n\r\n")[0]
    unfolded = re.sub(rb"\r\n(?=[ \t]+[^ \t\r\n])", b"", head)
    found = [line.partition(b":")[0].decode("ascii", "replace") for line in unfolded.split(b"\r\n")]
    if sorted(found) != sorted([*names, "MIME-Version", "Content-Type"]):
        raise BadMail("the mail would have other headers than were meant")
    if not made.isascii() or re.search(rb"\r(?!\n)|(?<!\r)\n|\x00", made):
        raise BadMail("the mail would have characters that SMTP does not carry")
    if any(len(line) > _LINE_MAX_BYTES for line in made.split(b"\r\n")):
        raise BadMail("the mail would have a line that is longer than SMTP carries")


def _headers(message: Message, sender: Sender) -> Iterator[tuple[str, str]]:
    """The headers in which no word of a person stands: visible ASCII, one line each."""
    if not _REFERENCE.fullmatch(message.reference):
        raise BadMail("the reference is no part of a Message-ID")
    kind, tenant = _label(message.notification_type), _label(message.tenant_id)
    yield "Message-ID", f"<{message.reference}@{sender.domain}>"
    yield "Auto-Submitted", "auto-generated"  # RFC 3834: no answers from machines
    yield "List-Id", f"<{kind}.{tenant}.{sender.domain}>"  # RFC 2919
    yield "Feedback-ID", f"{kind}:{tenant}:{message.priority}:carillon"
    if (url := message.unsubscribe_url) is not None:
        ways = f"<{url}>"
        if sender.unsubscribe is not None:
            token, box = url.rpartition("/")[2], quote(sender.unsubscribe, safe="@")  # RFC 6068
            both = f"{ways}, <mailto:{box}?subject={token}>"
            ways = both if len(both) < _LINE_MAX_BYTES - 40 else ways
        yield "List-Unsubscribe", ways  # RFC 2369
        if url.startswith("https://"):
            yield "List-Unsubscribe-Post", "List-Unsubscribe=One-Click"  # RFC 8058
    if message.priority == "urgent":
        yield "Importance", "high"  # RFC 2156
        yield "X-Priority", "1"


def _label(text: str) -> str:
    """A name as one label of a domain."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text)[:_LABEL].strip("-") or "x"


def _mailbox(address: str, name: str | None) -> str:
    if name is None or not name.strip():
        return f"<{address}>"
    return f"{_words(name.strip(), _PLAIN_NAME)} <{address}>"


def _words(text: str, plain: re.Pattern[str]) -> str:
    """The text as it is, or as encoded words (RFC 2047) on a line each; none of them cuts a character."""
    if plain.fullmatch(text) and len(text) <= _PLAIN_LENGTH:
        return text
    words, word = [], b""
    for character in text:
        encoded = character.encode()
        if len(word) + len(encoded) > _WORD_BYTES:
            words.append(word)
            word = b""
        word += encoded
    return "\r\n ".join(f"=?utf-8?B?{b64encode(word).decode()}?=" for word in [*words, word])


def _is_link(url: str) -> bool:
    """Whether a mail may lead there, and a header hold it."""
    if not url.isascii() or not url.isprintable() or re.search(r"[\s<>\"'\\]", url) or len(url) > 900:
        return False
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("https", "http") and bool(parts.hostname)


def _text(message: Message) -> str:
    parts = [message.title, message.text]
    if message.action_url is not None:
        parts.append(message.action_url)
    if message.unsubscribe_url is not None:
        parts.append(f"-- \n{_say(message).unsubscribe}: {message.unsubscribe_url}")
    if message.preferences_url is not None:
        parts.append(f"{_say(message).preferences}: {message.preferences_url}")
    return "\n\n".join(parts) + "\n"


def _html(message: Message) -> str:
    language = (message.locale or "").replace("_", "-")
    if message.html is not None:
        return _page(message, language, message.html)
    paragraphs = re.split(r"\n{2,}", message.text.replace("\r\n", "\n").replace("\r", "\n").strip("\n"))
    text = "".join(
        f'<p dir="auto">{escape(paragraph).replace(chr(10), "<br>")}</p>' for paragraph in paragraphs
    )
    return _page(message, language, text)


def _page(message: Message, language: str, text: str) -> str:
    return _PAGE.format(
        language=escape(language if _LANGUAGE.fullmatch(language) else "en"),
        title=escape(message.title),
        text=text,
        action=_link(_ACTION, message.action_url, _say(message).open),
        unsubscribe=_link(_FOOT, message.unsubscribe_url, _say(message).unsubscribe),
        preferences=_link(_FOOT, message.preferences_url, _say(message).preferences),
    )


def _link(pattern: str, url: str | None, words: str) -> str:
    return "" if url is None else pattern.format(url=escape(url), words=escape(words))


def _say(message: Message) -> _Words:
    language = re.split("[-_]", message.locale or "")[0].lower()
    return _LANGUAGES.get(language, _LANGUAGES["en"])


class _Words(NamedTuple):
    open: str
    unsubscribe: str
    preferences: str


#: What every mail says of its own; to everybody else in English.
_LANGUAGES = {
    "ar": _Words("فتح", "إلغاء الاشتراك", "ما يُرسل إليك"),
    "de": _Words("Öffnen", "Abbestellen", "Was Sie bekommen"),
    "en": _Words("Open", "Unsubscribe", "What you are sent"),
    "es": _Words("Abrir", "Cancelar la suscripción", "Lo que se le envía"),
    "fr": _Words("Ouvrir", "Se désabonner", "Ce que vous recevez"),
    "pt": _Words("Abrir", "Cancelar a subscrição", "O que recebe"),
    "rw": _Words("Fungura", "Reka kwakira ubu butumwa", "Ibyo wohererezwa"),
    "sw": _Words("Fungua", "Jiondoe", "Unachotumiwa"),
}

_ACTION = '<p class="action"><a href="{url}" rel="noopener noreferrer">{words}</a></p>'
_FOOT = '<p class="foot" dir="auto"><a href="{url}" rel="noopener noreferrer">{words}</a></p>'

# Nothing is loaded from anywhere, so nothing tells a stranger that the mail was opened.
_PAGE = """\
<!DOCTYPE html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="supported-color-schemes" content="light dark">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 0; padding: 24px 12px; background: #f3f4f6; color: #1f2937;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; }}
.card {{ max-width: 560px; margin: 0 auto; padding: 24px; background: #ffffff; border-radius: 12px; }}
h1 {{ margin: 0 0 12px; font-size: 20px; line-height: 1.3; overflow-wrap: anywhere; }}
p {{ margin: 0 0 16px; overflow-wrap: anywhere; }}
.action a {{ display: inline-block; padding: 10px 20px; border-radius: 8px; background: #1d4ed8; color: #ffffff;
  font-weight: 600; text-decoration: none; }}
.foot {{ max-width: 560px; margin: 16px auto 0; text-align: center; font-size: 13px; }}
.foot a {{ color: #4b5563; }}
@media (prefers-color-scheme: dark) {{
  body {{ background: #111827; color: #e5e7eb; }}
  .card {{ background: #1f2937; }}
  .action a {{ background: #3b82f6; color: #0b1220; }}
  .foot a {{ color: #9ca3af; }}
}}
</style>
</head>
<body>
<div class="card">
<h1 dir="auto">{title}</h1>
{text}
{action}
</div>
{unsubscribe}{preferences}
</body>
</html>
"""
