"""A link of a notification leads where it says, in every browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from core.links import MAX_LENGTH, validate_action_url

SITE = "app.example"
ALLOWED = frozenset({"docs.example", "bank.example", "intra.example:8443"})

HOSTILE = [
    "",
    " ",
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    " javascript:alert(1)",
    "java\tscript:alert(1)",
    "java\nscript:alert(1)",
    "\x01javascript:alert(1)",
    "javascript://docs.example/%0aalert(1)",
    "data:text/html,<script>alert(1)</script>",
    "vbscript:msgbox(1)",
    "file:///etc/passwd",
    "blob:https://docs.example/1",
    "mailto:anna@docs.example",
    "//evil.example",
    "///evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "/inbox\\..\\\\evil.example",
    "/\t/evil.example",
    "/\n/evil.example",
    "/%2fevil.example",
    "/%2F%2Fevil.example",
    "/%5cevil.example",
    "/.//evil.example",
    "/..//evil.example",
    "/%2e%2e//evil.example",
    "/a/../b",
    "/inbox/%0d%0aSet-Cookie:x=1",
    "/inbox/%00",
    "/inbox\u202egpj.exe",
    "/in box",
    "inbox",
    "?tab=new",
    "#top",
    "./inbox",
    "http://docs.example/",
    "https:docs.example",
    "https:/docs.example",
    "https:///docs.example",
    "https://evil.example/",
    "https://docs.example.evil.example/",
    "https://evildocs.example/",
    "https://sub.docs.example/",
    "https://docs.example./",
    "https://docs.example@evil.example/",
    "https://docs.example:x@evil.example/",
    "https://docs.example\\@evil.example/",
    "https://evil.example#@docs.example/",
    "https://evil.example?.docs.example/",
    "https://docs.example:8443/",
    "https://docs.example:443443/",
    "https://docs.example:/",
    "https://docs.example%2eevil.example/",
    "https://intra.example/",
    "https://[::1]/",
    "https://127.0.0.1/",
    "https://0x7f000001/",
    "https://ban\u212a.example/",
    "http\u017f://docs.example/",
    "https://dócs.example/",
    "https://docs。example/",
    "https://docs.example/a b",
    "https://docs.example/\ud800",
    "wss://docs.example/",
    "/" + "a" * MAX_LENGTH,
]

HONEST = [
    "/",
    "/inbox",
    "/iep/42/review?tab=goals&from=mail#goal-3",
    "/schüler/7",
    "/search?q=a//b&next=/home",
    "/files/a%2Fb.pdf",
    "/@anna/..hidden",
    "https://docs.example",
    "https://docs.example/",
    "HTTPS://Docs.Example/Guide?x=%20",
    "https://docs.example:443/a//b",
    "https://docs.example?x",
    "https://intra.example:8443/x",
    "https://bank.example/a/../b",
]


@pytest.mark.parametrize("url", HOSTILE)
def test_a_link_that_leads_elsewhere_is_refused_with_a_reason(url: str) -> None:
    with pytest.raises(ValueError) as refused:
        validate_action_url(url, ALLOWED)

    assert not url.strip() or url not in str(refused.value)


@pytest.mark.parametrize("url", HONEST)
def test_an_honest_link_stays_as_it_was_given(url: str) -> None:
    assert validate_action_url(url, ALLOWED) == url


def test_without_a_list_only_paths_are_links() -> None:
    assert validate_action_url("/inbox") == "/inbox"
    with pytest.raises(ValueError):
        validate_action_url("https://docs.example/")


def browser(url: str) -> tuple[str, str, int]:
    """
    (scheme, host, port) that a page of https://app.example/home/ opens for a link: the URL Standard's
    basic parser, as far as it decides where a link leads.
    """
    url = re.sub(r"[\t\n\r]", "", url.strip("".join(map(chr, range(0x21)))))
    scheme = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]*):", url)
    if scheme is not None:
        name, rest = scheme[1].lower(), url[scheme.end() :]
        if name not in ("http", "https", "ws", "wss", "ftp"):
            return name, "", 0
        if name == "https" and not re.match(
            r"[/\\]{2}", rest
        ):  # the page's own scheme: relative without slashes
            return browser(rest) if re.match(r"[/\\]", rest) else ("https", SITE, 443)
        rest = rest.lstrip("/\\")
    elif re.match(r"[/\\]{2}", url):
        name, rest = "https", url.lstrip("/\\")
    else:
        return "https", SITE, 443
    authority = re.split(r"[/\\?#]", rest, maxsplit=1)[0].rpartition("@")[2]
    host, _, port = authority.partition(":")
    return name, host.lower(), int(port) if port.isdecimal() else 443


def leads_away(url: str) -> bool:
    scheme, host, port = browser(url)
    if scheme != "https":
        return True
    name = host if port == 443 else f"{host}:{port}"
    return name != SITE and name not in ALLOWED


PIECES = st.sampled_from(
    [
        *"/\\:@?#.%& \t\n\r\0",
        *(
            "//",
            "/\\",
            "..",
            "%2f",
            "%5c",
            "%2e",
            "%0a",
            "%09",
            "\u2028",
            "\u3002",
            "\uff0f",
            "\u212a",
            "\u017f",
        ),
        *("https", "HTTPS", "http", "javascript", "data", "ws", "https://", "https:", "https:/"),
        *(
            "docs.example",
            "bank.example",
            "intra.example",
            "app.example",
            "evil.example",
            "8443",
            "443",
            "a",
            "inbox",
        ),
    ]
)
URLS = st.one_of(
    st.lists(PIECES, max_size=8).map("".join),
    st.builds(lambda head, tail: head + tail, st.sampled_from(HONEST), st.text(max_size=8)),
    st.builds(lambda head, tail: head + "".join(tail), st.sampled_from(HONEST), st.lists(PIECES, max_size=5)),
    st.text(max_size=30),
)


@settings(max_examples=2000, deadline=None)
@given(URLS)
@example("https://docs.example:8443/")
@example("/\t/evil.example")
def test_no_accepted_link_leads_a_browser_away(url: str) -> None:
    try:
        accepted = validate_action_url(url, ALLOWED)
    except ValueError:
        return

    assert not leads_away(accepted)
    assert urlsplit(accepted).scheme in ("", "https")


# The checks below are wrong on purpose: the lists must catch every one.


def starts_with_a_slash(url: str) -> bool:
    return url.startswith("/") or any(url.startswith(f"https://{host}") for host in ALLOWED)


def no_host_says_the_library(url: str) -> bool:
    """The standard library's parser is not a browser."""
    parts = urlsplit(url)
    return (parts.scheme, parts.netloc) == ("", "") or (parts.scheme == "https" and parts.netloc in ALLOWED)


def not_javascript(url: str) -> bool:
    return not url.lower().startswith(("javascript:", "data:", "//"))


@pytest.mark.parametrize("careless", [starts_with_a_slash, no_host_says_the_library, not_javascript])
def test_the_list_catches_a_careless_check(careless: Callable[[str], bool]) -> None:
    let_in = []
    for url in HOSTILE:
        try:
            if careless(url) and leads_away(url):
                let_in.append(url)
        except ValueError:  # a check that cannot read the link does not let it in
            continue

    assert let_in
