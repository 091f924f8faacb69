"""One payload for browsers that show it by themselves, for AIVO's worker and for ours, in the room that there is."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from push.encryption import MAX_PLAINTEXT
from push.payload import WORDS, Action, Push, build, fitting, whole

ID = UUID(int=7)
READ = UUID(int=8)


def a_push(**members: Any) -> Push:
    said: dict[str, Any] = {
        "notification_id": ID,
        "notification_type": "iep_update",
        "title": "IEP Document Updated",
        "text": "Please review the changes.",
        "url": "/iep/12345/review",
        "receipt": "r" * 130,
        "fetch": "f" * 130,
    }
    return Push(**said | members)


def told(push: Push, budget: int = MAX_PLAINTEXT) -> dict[str, Any]:
    said = json.loads(build(push, budget))
    assert isinstance(said, dict)
    return said


def test_it_is_a_declarative_message():
    said = told(a_push(unread=3))

    assert said["web_push"] == 8030
    assert said["app_badge"] == 3
    shown = said["notification"]
    assert (shown["title"], shown["body"]) == ("IEP Document Updated", "Please review the changes.")
    assert shown["navigate"] == "/iep/12345/review"


def test_it_is_what_the_aivo_worker_reads():
    said = told(a_push(icon="/icon.png", badge="/badge.png", priority="urgent"))

    assert said["title"] == "IEP Document Updated"
    assert said["body"] == said["message"] == "Please review the changes."
    assert (said["icon"], said["badge"], said["tag"]) == ("/icon.png", "/badge.png", str(ID))
    assert said["data"]["action_url"] == "/iep/12345/review"
    assert said["actions"] == [{"action": "view", "title": "View"}]
    assert (said["priority"], said["requireInteraction"]) == ("urgent", True)


def test_buttons_of_the_producer_lead_where_they_say():
    said = told(a_push(actions=[Action("sign", "Sign", "/sign"), Action("later", "Later")]))

    assert [one["navigate"] for one in said["notification"]["actions"]] == ["/sign", "/iep/12345/review"]
    assert [one["action"] for one in said["actions"]] == ["sign", "later"]


def test_without_a_link_it_leads_home():
    said = told(a_push(url=None, home="https://school.example"))

    assert said["notification"]["navigate"] == "https://school.example"
    assert (said["data"]["action_url"], said["actions"]) == (None, [])


def test_what_runs_from_right_to_left_says_so():
    assert told(a_push(locale="he"))["notification"]["dir"] == "rtl"
    assert "dir" not in told(a_push(locale="en"))["notification"]


@pytest.mark.parametrize("locale", ["fr", "fr-CA", "fr_FR", "FR"])
def test_a_private_push_is_in_the_language_of_the_person(locale: str):
    said = told(a_push(privacy="private", locale=locale))

    assert said["title"] == said["notification"]["title"] == WORDS["fr"][0]


def test_a_private_push_holds_nothing_of_what_it_is_about():
    text = build(
        a_push(privacy="private", image="/john.png", actions=[Action("sign", "Sign John's plan", "/sign")])
    ).decode()

    assert all(word not in text for word in ("IEP", "iep", "review", "john", "John", "Sign"))
    assert json.loads(text)["fetch"] == {"id": str(ID), "token": "f" * 130, "when": "clicked"}


def test_the_order_in_which_things_go():
    full = a_push(
        image="https://example.org/" + "i" * 300,
        icon="https://example.org/" + "c" * 300,
        actions=[Action("one", "1" * 200), Action("two", "2" * 200)],
        reads=[READ] * 10,
    )
    seen: list[frozenset[str]] = []
    for budget in range(len(build(full, 100_000)), 900, -20):
        said = told(full, budget)
        there = {
            name
            for name, is_there in {
                "image": "image" in said,
                "message": "message" in said,
                "icon": "icon" in said,
                "second button": len(said["actions"]) > 1,
                "first button": len(said["actions"]) > 0,
                "reads": "reads" in said,
                "text": "fetch" not in said,
            }.items()
            if is_there
        }
        if not seen or seen[-1] != there:
            seen.append(frozenset(there))

    order = ["image", "message", "icon", "second button", "first button", "reads"]
    assert seen[:7] == [frozenset({*order[gone:], "text"}) for gone in range(7)]


def test_a_long_text_ends_where_there_is_no_more_room():
    said = told(a_push(text="word " * 2000))

    assert said["body"].endswith("\u2026")
    assert said["body"] == said["notification"]["body"]
    assert len(said["body"]) > 1000
    assert "fetch" not in said


def test_what_does_not_fit_at_all_is_fetched_before_it_is_shown():
    said = told(a_push(title="t" * 250, text="x" * 5000, url="/" + "p" * 2000))

    assert said["fetch"] == {"id": str(ID), "token": "f" * 130, "when": "shown"}
    assert said["title"].startswith("ttt")


@pytest.mark.parametrize("priority", ["low", "normal", "urgent"])
@pytest.mark.parametrize("tag", [None, "t" * 32])
@pytest.mark.parametrize("unread", [None, 0, 7])
@pytest.mark.parametrize("privacy", ["full", "title_only"])
def test_what_is_fetched_replaces_sounds_and_counts_as_the_whole(
    priority: str, tag: str | None, unread: int | None, privacy: Any
):
    push = a_push(
        title="t" * 250, url="/" + "p" * 2000, priority=priority, tag=tag, unread=unread, privacy=privacy
    )

    spilled, all_ = told(push), whole(push)

    assert "fetch" in spilled
    for name in ("tag", "priority", "requireInteraction", "app_badge"):
        assert spilled.get(name) == all_.get(name), name
    for name in ("tag", "silent"):
        assert spilled["notification"][name] == all_["notification"][name], name


@pytest.mark.parametrize("text", ["", "short", "long " * 1000])
def test_a_link_that_fills_the_room_is_fetched_whatever_the_text(text: str):
    said = told(a_push(text=text, url="/" + "p" * 2000))

    assert said["fetch"]["when"] == "shown"


@given(
    title=st.text(max_size=250),
    text=st.text(max_size=8000),
    url=st.none() | st.text("abc/%", max_size=2000).map(lambda path: "/" + path),
    privacy=st.sampled_from(["full", "title_only", "private"]),
    reads=st.integers(0, 10),
    home=st.just("/") | st.integers(0, 4000).map(lambda count: "https://school.example/" + "a" * count),
)
def test_whatever_it_says_it_fits(
    title: str, text: str, url: str | None, privacy: Any, reads: int, home: str
):
    push = a_push(title=title, text=text, url=url, privacy=privacy, reads=[READ] * reads, home=home)

    for budget in (MAX_PLAINTEXT, 2000):
        encoded = build(push, budget)
        assert len(encoded) <= budget
        assert json.loads(encoded)["notification"]["navigate"]
    assert whole(push)["body"] == text


def test_a_site_with_a_long_address_keeps_what_it_can_of_a_push_that_is_fetched():
    site, long = "https://school.example/", {"title": "ü" * 250, "url": "/" + "p" * 2000}
    near, far, farther = (told(a_push(home=site + "a" * count, **long), 2000) for count in (200, 700, 2000))

    assert (near["title"][:9], near["notification"]["navigate"]) == ("ü" * 9, site + "a" * 200)
    assert (far["title"], far["notification"]["navigate"]) == (WORDS["en"][0], site + "a" * 700)
    assert (farther["title"], farther["notification"]["navigate"]) == (WORDS["en"][0], "/")
    assert farther["fetch"] == {"id": str(ID), "token": "f" * 130, "when": "shown"}


@given(st.text(max_size=200), st.integers(-5, 300))
def test_what_is_cut_is_a_beginning_that_fits(text: str, room: int):
    cut = fitting(text, room)

    assert text.startswith(cut)
    assert len(msgspec.json.encode(cut)) - 2 <= max(room, 0)
