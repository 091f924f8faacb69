"""SMS are counted as the networks bill them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.channels.segments import segments


@pytest.mark.parametrize(
    ("text", "encoding", "units", "parts"),
    [
        ("", "GSM-7", 0, 0),
        ("a" * 160, "GSM-7", 160, 1),
        ("a" * 161, "GSM-7", 161, 2),
        ("a" * 306, "GSM-7", 306, 2),
        ("a" * 307, "GSM-7", 307, 3),
        ("€" * 80, "GSM-7", 160, 1),
        ("€" * 81, "GSM-7", 162, 2),
        ("€" * 76 + "aa", "GSM-7", 154, 1),
        # 153 is odd: an escape and its character are never in two parts, so each holds 76 of them.
        ("€" * 152, "GSM-7", 304, 2),
        ("€" * 153, "GSM-7", 306, 3),
        ("a" * 152 + "€" + "a" * 20, "GSM-7", 174, 2),
        ("a" * 152 + "€" + "a" * 151, "GSM-7", 305, 2),
        ("a" * 152 + "€" + "a" * 152, "GSM-7", 306, 3),
        ("[]{}\\^~|€\f", "GSM-7", 20, 1),
        ("@£$¥èéùìòÇØøÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ¤¡ÄÖÑÜ§¿äöñüà", "GSM-7", 42, 1),
        ("`", "UCS-2", 1, 1),
        ("ç", "UCS-2", 1, 1),
        ("…", "UCS-2", 1, 1),
        ("я" * 70, "UCS-2", 70, 1),
        ("я" * 71, "UCS-2", 71, 2),
        ("я" * 134, "UCS-2", 134, 2),
        ("я" * 135, "UCS-2", 135, 3),
        ("🚨" * 35, "UCS-2", 70, 1),
        ("🚨" * 36, "UCS-2", 72, 2),
        # 67 is odd: half of an emoji shows as two boxes, so each part holds 33.
        ("🚨" * 66, "UCS-2", 132, 2),
        ("🚨" * 67, "UCS-2", 134, 3),
    ],
)
def test_a_text_becomes_so_many_sms(text, encoding, units, parts):
    assert segments(text) == (encoding, units, parts)


@given(st.text(max_size=400))
def test_no_part_is_larger_than_an_sms(text):
    found = segments(text)

    room = 153 if found.encoding == "GSM-7" else 67
    assert found.parts >= -(-found.units // room) or found.parts == 1
    assert found.parts <= found.units
