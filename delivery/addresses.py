"""
Addresses: what somebody typed -> the one form in which it is stored and sent to, or a sentence why not.

No sentence here repeats the address. Pure.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

import idna
import phonenumbers
from phonenumbers import NumberParseException, PhoneNumberFormat, PhoneNumberType

from delivery.channel import MAX_ADDRESS, PROVIDER_CHANNELS
from delivery.plugins import hinted, normalised, plugin

#: The channels that reach people at an address of theirs.
ADDRESS_CHANNELS = tuple(name for name in PROVIDER_CHANNELS if name != "push")

#: RFC 5321 section 4.5.3.1: the part before the @, the domain, and the two with the @ in a path without its brackets.
_MAX_LOCAL, _MAX_DOMAIN, _MAX_EMAIL = 64, 255, 254

#: A dot-atom (RFC 5322 section 3.2.3). Quoted local parts exist on paper; in a header they are a way to inject one.
_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

#: Digits with what people write between them. Letters are refused, which libphonenumber would dial.
_PHONE = re.compile(r"\+?[0-9 ()./\u00a0\u2010-\u2015-]+")
_REGION = re.compile(r"[A-Z]{2}")

#: Numbers whose owner is paid by the caller: what SMS pumping lives on.
_PREMIUM = frozenset({PhoneNumberType.PREMIUM_RATE, PhoneNumberType.SHARED_COST})

#: Telegram's chat ids have at most 52 significant bits; groups are negative, channels begin with -100.
_CHAT_ID = re.compile(r"-?[1-9][0-9]{0,15}")
_MAX_CHAT_ID = 2**52
_CHAT_NAME = re.compile(r"@[a-z][a-z0-9_]{3,31}", re.IGNORECASE)


def normalise(channel: str, text: str, region: str | None = None, *, plain_http: bool = False) -> str:
    """
    The address as it is stored, compared and sent to.

    region: ISO 3166, for phone numbers that name no country. plain_http: webhooks may do without TLS.

    Raises ValueError with a sentence that says what is wrong and does not repeat the address.
    """
    text = text.strip(" ")
    if not text:
        raise ValueError("must not be empty")
    if len(text) > MAX_ADDRESS:
        raise ValueError(f"must be at most {MAX_ADDRESS} characters")
    match channel:
        case "email":
            return _email(text)
        case "sms" | "whatsapp":
            return _phone(text, region)
        case "telegram":
            return _chat(text)
        case "webhook":
            return _webhook(text, plain_http)
    if (theirs := plugin(channel)) is not None:
        return normalised(theirs, text)
    raise ValueError(f"must be an address of {', '.join(ADDRESS_CHANNELS)}")


def hint(channel: str, value: str) -> str:
    """A normalised address, masked so far that it may be shown: its owner recognises it, nobody else learns it."""
    match channel:
        case "email":
            local, _, domain = value.rpartition("@")
            name, _, top = domain.rpartition(".")
            return f"{local[:1]}***@{name[:1]}***.{top}"
        case "sms" | "whatsapp":
            return mask_phone(value)
        case "telegram":
            return f"***{value[-2:]}" if len(value) > 4 else "***"
        case "webhook":
            url = urlsplit(value)
            return f"{url.scheme}://{url.netloc}"
    theirs = plugin(channel)
    return "***" if theirs is None else hinted(theirs, value)


def mask_phone(number: str) -> str:
    """A phone number with its middle gone: `+25078123456` -> `+25***56` (X-76)."""
    return f"{number[:3]}***{number[-2:]}" if len(number) > 7 else "***"


def is_region(text: str) -> bool:
    """Whether it is a country whose phone numbers are known, by its ISO 3166 code."""
    return _REGION.fullmatch(text) is not None and text in phonenumbers.SUPPORTED_REGIONS


def country(number: str) -> str | None:
    """Whose number it is (ISO 3166): of an E.164 number; None where it belongs to no country."""
    return phonenumbers.region_code_for_number(phonenumbers.parse(number))


def _email(text: str) -> str:
    local, at, domain = text.rpartition("@")
    # Characters that are not seen are dropped when a domain is mapped, so the text is judged as it came.
    if not at or "=?" in text or not text.isprintable() or not _LOCAL.fullmatch(local):
        raise ValueError("must be one e-mail address, as in name@example.com, without a display name")
    if len(local) > _MAX_LOCAL:
        raise ValueError(f"must have at most {_MAX_LOCAL} characters before the @")
    address = f"{local}@{_domain(domain)}"
    if len(address) > _MAX_EMAIL:
        raise ValueError(f"must be at most {_MAX_EMAIL} characters")
    return address


def _domain(text: str) -> str:
    """A domain in the form of the DNS: lower case, ASCII (RFC 5890)."""
    domain = _host(text)
    labels = domain.split(".")
    if len(labels) < 2 or labels[-1].isdigit():
        raise ValueError("must have a domain of the internet after the @")
    return domain


def _host(text: str) -> str:
    if not 0 < len(text) <= _MAX_DOMAIN:
        raise ValueError("must name a host")
    host = text.lower()
    if not host.isascii() or "xn--" in host:
        try:
            host = idna.encode(text, uts46=True, std3_rules=True).decode()
        except (idna.IDNAError, UnicodeError):
            raise ValueError("must have a domain that exists in the DNS") from None
    if len(host) > _MAX_DOMAIN - 2 or not all(map(_LABEL.fullmatch, host.split("."))):
        raise ValueError("must have a domain that exists in the DNS")
    return host


def _phone(text: str, region: str | None) -> str:
    text = text.removeprefix("whatsapp:")  # as Twilio writes them
    if not _PHONE.fullmatch(text):
        raise ValueError("must be a phone number, as in +14155552671")
    if region is None and not text.startswith("+"):
        raise ValueError("must begin with + and the code of its country: no region is set for this tenant")
    try:
        number = phonenumbers.parse(text, region)
    except NumberParseException:
        raise ValueError("must be a phone number, as in +14155552671") from None
    if not phonenumbers.is_valid_number(number):
        raise ValueError("must be a phone number that can exist in its country, as in +14155552671")
    if phonenumbers.number_type(number) in _PREMIUM:
        raise ValueError("must not be a number whose calls are charged extra")
    return phonenumbers.format_number(number, PhoneNumberFormat.E164)


def _chat(text: str) -> str:
    if _CHAT_NAME.fullmatch(text):
        return text.lower()
    if not _CHAT_ID.fullmatch(text) or abs(int(text)) >= _MAX_CHAT_ID:
        raise ValueError("must be the number of a Telegram chat, or @ and the name of a channel")
    return text


def _webhook(text: str, plain_http: bool) -> str:
    schemes = ("https", "http") if plain_http else ("https",)
    # urlsplit drops tabs and line ends in silence, so the text is judged as it came.
    if " " in text or "\\" in text or not text.isprintable():
        raise ValueError("must hold no white space, controls or backslashes")
    problem = f"must be an absolute URL with {' or '.join(schemes)}"
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise ValueError(problem) from None
    if url.scheme not in schemes or not url.hostname:
        raise ValueError(problem)
    if "@" in url.netloc:
        raise ValueError("must hold no name or password")
    if "#" in text:
        raise ValueError("must hold no fragment")
    host = _url_host(url)
    made = f"{url.scheme}://{host if port is None else f'{host}:{port}'}{url.path or '/'}"
    if url.query:
        made += f"?{url.query}"
    if not made.isascii():
        raise ValueError("must be written in ASCII after its host")
    if len(made) > MAX_ADDRESS:
        raise ValueError(f"must be at most {MAX_ADDRESS} characters")
    return made


def _url_host(url: SplitResult) -> str:
    """The host of a URL: an address of IP in its one form, or a name of the DNS."""
    name = url.hostname or ""
    bracketed = "[" in url.netloc
    if not bracketed and not name.rpartition(".")[2][:1].isdigit():
        return _host(name)
    try:  # 127.1 and 0x7f000001 are addresses to some readers, and to this one none
        address = ip_address(name)
    except ValueError:
        raise ValueError("must have an address of IP in its usual form, or a name, for its host") from None
    if "%" in name:
        raise ValueError("must not name an interface of this machine")
    return f"[{address}]" if bracketed else str(address)
