"""Where a notification may lead: into the application itself, or to a site the operator has named."""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet
from urllib.parse import unquote

MAX_LENGTH = 2048

# Letters are those of ASCII: there are others that become one of them in lower case.
_HTTPS = re.compile(
    r"https://(?P<host>[a-z0-9.-]+)(:(?P<port>[0-9]{1,5}))?([/?#].*)?", re.ASCII | re.IGNORECASE
)


def validate_action_url(url: str, allowed_hosts: AbstractSet[str] = frozenset()) -> str:
    """
    The link as it was given, when every browser that opens it stays where it may go.

    url: a path of the application's own site ("/inbox/7?tab=new"), or an https address.
    allowed_hosts: in lower case, each with its port where that is not 443 ("app.example:8443");
        compared exactly, so no name stands for its subdomains.

    Browsers drop tabs and line ends, take a backslash for a slash and two slashes for another host
    (URL Standard, "basic URL parser"), and what stands behind a link may decode it once more. None of
    that is repaired here: a link that needs it is refused. Raises ValueError with the reason.
    """
    if not 0 < len(url) <= MAX_LENGTH:
        raise ValueError(f"is 1 to {MAX_LENGTH} characters")
    if not url.isprintable() or " " in url:
        raise ValueError("has no spaces, line ends or other characters that cannot be seen")
    if "\\" in url:
        raise ValueError("has no backslash")
    if any(character < " " or character == "\x7f" for character in unquote(url, errors="replace")):
        raise ValueError("has no encoded control characters")
    if url.startswith("/"):
        _check_path(url)
        return url
    address = _HTTPS.fullmatch(url)
    if address is None:
        raise ValueError("is a path that begins with one slash, or an https address")
    if _authority(address) not in allowed_hosts:
        raise ValueError("leads to a site that is not on the list of allowed hosts")
    return url


def _check_path(url: str) -> None:
    """A path must stay one also for those who resolve or decode it before they use it."""
    path = re.split(r"[?#]", url, maxsplit=1)[0]
    segments = [unquote(segment, errors="replace") for segment in path.split("/")]
    if any(segment in (".", "..") for segment in segments):
        raise ValueError("has no . or .. in its path")
    if "//" in path or unquote(path, errors="replace").startswith(("//", "/\\")):
        raise ValueError("has no empty part in its path")


def _authority(address: re.Match[str]) -> str:
    host, port = address["host"].lower(), address["port"]
    return host if port is None or int(port) == 443 else f"{host}:{int(port)}"
