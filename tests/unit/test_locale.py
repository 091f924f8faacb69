"""Languages and time zones by their standard names."""

from __future__ import annotations

import pytest

from core.locale import is_language_tag, is_timezone


@pytest.mark.parametrize(
    "tag",
    [
        "de",
        "pt-BR",
        "zh-Hant-TW",
        "es-419",
        "sl-rozaj-biske",
        "de-CH-1901",
        "kin",
        "en-x-us",
        "en-a-bbb-x-a-ccc",
        "zh-cmn-Hans-CN",
        "DE-at",
    ],
)
def test_well_formed_tags_are_languages(tag: str) -> None:
    assert is_language_tag(tag)


@pytest.mark.parametrize(
    "tag",
    [
        "",
        "d",
        "english!",
        "de_AT",
        "de-",
        "-de",
        "de--AT",
        "de-AT\n",
        "dé",
        "en-" + "a" * 9,
        "en" + "-abcde" * 20,
        "de AT",
        "en-a",
        "en-x",
    ],
)
def test_what_is_not_well_formed_is_none(tag: str) -> None:
    assert not is_language_tag(tag)


@pytest.mark.parametrize(
    "zone", ["Europe/Vienna", "UTC", "America/Argentina/Ushuaia", "Asia/Kathmandu", "Etc/GMT+5"]
)
def test_zones_of_the_database_are_zones(zone: str) -> None:
    assert is_timezone(zone)


@pytest.mark.parametrize(
    "zone", ["", "Vienna", "europe/vienna", "Europe/Atlantis", "../UTC", "/etc/localtime", "UTC\0"]
)
def test_nothing_else_is_a_zone(zone: str) -> None:
    assert not is_timezone(zone)
