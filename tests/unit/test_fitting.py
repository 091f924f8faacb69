"""What is too long is cut where nobody stumbles over it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.channels.fitting import fit, one_line, plain, shorten, utf16_length


def at_most(limit):
    return lambda text: len(text) <= limit


def test_what_fits_is_left_alone():
    assert fit(("Title", "Text", "https://a.example"), at_most(100)).body == "Title\nText\nhttps://a.example"
    assert fit(("Title", "", ""), at_most(5)).body == "Title"


def test_the_text_gives_way_and_the_link_stays_whole():
    fitted = fit(("Alarm", "one two three four five", "https://a.example/x"), at_most(42))

    assert fitted.body == "Alarm\none two three…\nhttps://a.example/x"
    assert fitted.dropped == len(" four five")


def test_the_title_gives_way_when_there_is_no_room_for_the_text():
    fitted = fit(("A long title of words", "text", "https://a.example/x"), at_most(30))

    assert fitted.body == "A long…\nhttps://a.example/x"


def test_without_room_beside_the_link_nothing_is_made_up():
    assert fit(("Title", "Text", "https://a.example/x"), at_most(19)) is None


def test_a_word_is_cut_when_none_ends_nearby():
    assert shorten("x" * 100, at_most(10)) == "x" * 9 + "…"


@pytest.mark.parametrize(
    "emoji",
    ["👨‍👩‍👧", "👍🏽", "🇷🇼", "e\u0301", "❤️"],
    ids=["joined", "skin tone", "flag", "accent", "variation"],
)
def test_what_is_one_sign_to_a_reader_is_not_cut_apart(emoji):
    for limit in range(34, 34 + len(emoji)):
        kept = shorten("x" * 32 + emoji + "y" * 40, at_most(limit))

        assert kept in ("x" * 32 + "…", "x" * 32 + emoji + "…"), limit


@given(st.text(max_size=300), st.text(max_size=300), st.integers(10, 200))
def test_what_is_made_always_fits_and_begins_as_it_did(title, text, limit):
    def fits(one):
        return utf16_length(one) <= limit

    fitted = fit((plain(title), plain(text), ""), fits)

    assert fitted is not None
    assert fits(fitted.body)
    assert fitted.dropped or fitted.body == "\n".join(part for part in (plain(title), plain(text)) if part)


def test_controls_become_spaces_and_line_ends_stay():
    assert plain("a\r\nb\rc\td\x00e\u2028f\x85g") == "a\nb\nc d e f g"
    assert one_line(" a\n\n b\t\tc      d ") == "a b c d"
