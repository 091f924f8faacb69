"""What is an address, in which one form, and how much of it may be shown."""

from __future__ import annotations

from email.headerregistry import Address as MailAddress
from urllib.parse import urlsplit

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from delivery.addresses import ADDRESS_CHANNELS, hint, is_region, mask_phone, normalise

GOOD = [
    ("email", "ada@example.com", None, "ada@example.com"),
    ("email", "  ada@example.com ", None, "ada@example.com"),
    ("email", "Ada.Lovelace@EXAMPLE.Com", None, "Ada.Lovelace@example.com"),
    ("email", "ada+tag@example.com", None, "ada+tag@example.com"),
    ("email", "o'brien@example.ie", None, "o'brien@example.ie"),
    ("email", "!#$%&'*+-/?=^_`{|}~@example.com", None, "!#$%&'*+-/?=^_`{|}~@example.com"),
    ("email", "1@2.example", None, "1@2.example"),
    ("email", "a@b-c.co.uk", None, "a@b-c.co.uk"),
    ("email", "ada@r3---sn.example", None, "ada@r3---sn.example"),
    ("email", "ada@münchen.de", None, "ada@xn--mnchen-3ya.de"),
    ("email", "ada@MÜNCHEN.de", None, "ada@xn--mnchen-3ya.de"),
    ("email", "ada@straße.de", None, "ada@xn--strae-oqa.de"),
    ("email", "ada@例え.テスト", None, "ada@xn--r8jz45g.xn--zckzah"),
    ("email", "ada@example。com", None, "ada@example.com"),
    ("email", "ada@xn--mnchen-3ya.de", None, "ada@xn--mnchen-3ya.de"),
    ("email", "a" * 64 + "@example.com", None, "a" * 64 + "@example.com"),
    ("email", "a@" + ".".join(["b" * 63] * 3) + ".com", None, "a@" + ".".join(["b" * 63] * 3) + ".com"),
    ("sms", "+250781234567", None, "+250781234567"),
    ("sms", "0781234567", "RW", "+250781234567"),
    ("sms", "0781 234 567", "RW", "+250781234567"),
    ("sms", "+250 (0) 781 234 567", None, "+250781234567"),
    ("sms", "+1 (415) 555-2671", None, "+14155552671"),
    ("sms", "415.555.2671", "US", "+14155552671"),
    ("sms", "011 250 781 234 567", "US", "+250781234567"),
    ("sms", "0043 664 1234567", "DE", "+436641234567"),
    ("sms", "+44 20 7946 0018", "RW", "+442079460018"),
    ("sms", "+49\u2011170\u20115550199", None, "+491705550199"),
    ("whatsapp", "whatsapp:+14155552671", None, "+14155552671"),
    ("whatsapp", "+5491123456789", None, "+5491123456789"),
    ("whatsapp", "+525512345678", None, "+525512345678"),
    ("telegram", "123456789", None, "123456789"),
    ("telegram", "-100123456789", None, "-100123456789"),
    ("telegram", "-1001234567890", None, "-1001234567890"),
    ("telegram", "4503599627370495", None, "4503599627370495"),
    ("telegram", "1", None, "1"),
    ("telegram", "@Carillon_News", None, "@carillon_news"),
    ("telegram", "@abcd", None, "@abcd"),
    ("webhook", "https://hooks.example.com/a/b?c=d&e=f", None, "https://hooks.example.com/a/b?c=d&e=f"),
    ("webhook", "HTTPS://Hooks.Example.COM/Path", None, "https://hooks.example.com/Path"),
    ("webhook", "https://hooks.example.com", None, "https://hooks.example.com/"),
    ("webhook", "https://hooks.example.com?x=1", None, "https://hooks.example.com/?x=1"),
    ("webhook", "https://hooks.example.com:8443/", None, "https://hooks.example.com:8443/"),
    ("webhook", "https://münchen.de/x", None, "https://xn--mnchen-3ya.de/x"),
    ("webhook", "https://93.184.215.14/x", None, "https://93.184.215.14/x"),
    ("webhook", "https://[2606:2800:21f:cb07::1]/x", None, "https://[2606:2800:21f:cb07::1]/x"),
    ("webhook", "https://[2606:2800:021F:CB07:0::1]:444/", None, "https://[2606:2800:21f:cb07::1]:444/"),
    ("webhook", "https://localhost/", None, "https://localhost/"),
]

BAD = [
    ("email", ""),
    ("email", "   "),
    ("email", "ada"),
    ("email", "@example.net"),
    ("email", "ada@"),
    ("email", "ada@example"),
    ("email", "ada@localhost"),
    ("email", "ada@@example.com"),
    ("email", "ada@eve@example.com"),
    ("email", "Ada <ada@example.com>"),
    ("email", "<ada@example.com>"),
    ("email", '"Ada" <ada@example.com>'),
    ("email", '"ada lovelace"@example.com'),
    ("email", "ada lovelace@example.com"),
    ("email", "ada@exam ple.com"),
    ("email", "ada@example.com, eve@example.com"),
    ("email", "ada@example.com;eve@example.com"),
    ("email", "ada@example.com eve@example.com"),
    ("email", ".ada@example.com"),
    ("email", "ada.@example.com"),
    ("email", "a..b@example.com"),
    ("email", "ada@.example.com"),
    ("email", "ada@example..com"),
    ("email", "ada@example.com."),
    ("email", "ada@-example.com"),
    ("email", "ada@example-.com"),
    ("email", "ada@exa_mple.com"),
    ("email", "ada@[192.0.2.1]"),
    ("email", "ada@192.0.2.1"),
    ("email", "ada(comment)@example.com"),
    ("email", "ada@example.com\n"),
    ("email", "ada@example.com\r\nBcc: eve@example.com"),
    ("email", "ada\r@example.com"),
    ("email", "ada@exa\nmple.com"),
    ("email", "ada@example.com\u2028"),
    ("email", "ada\u2029@example.com"),
    ("email", "ada\0@example.com"),
    ("email", "ada\x7f@example.com"),
    ("email", "ada@example\x85.com"),
    ("email", "=?utf-8?q?ada?=@example.com"),
    ("email", "ada=?x@example.com"),
    ("email", "ada%0d%0a@exa%0dmple.com"),
    ("email", "añda@example.com"),
    ("email", "аda@example.com"),
    ("email", "\ufeffada@example.com"),
    ("email", "ada@\u200dexample.com"),
    ("email", "ada@☃.net"),
    ("email", "ada@xn--zzzzzz.de"),
    ("email", "a" * 65 + "@example.com"),
    ("email", "a@" + "b" * 64 + ".com"),
    ("email", "a" * 64 + "@" + ".".join(["b" * 61] * 4) + ".com"),
    ("email", "a@" + "é" * 5000 + ".com"),
    ("sms", ""),
    ("sms", "+"),
    ("sms", "0781234567"),
    ("sms", "12345"),
    ("sms", "+25078123456"),
    ("sms", "+999123456789"),
    ("sms", "+1212555012"),
    ("sms", "+14155552671234567"),
    ("sms", "+1800FLOWERS"),
    ("sms", "+14155552671 ext. 5"),
    ("sms", "+14155552671;ext=5"),
    ("sms", "+14155552671,5"),
    ("sms", "+14155552671\n"),
    ("sms", "+1415\r\n5552671"),
    ("sms", "++14155552671"),
    ("sms", "tel:+14155552671"),
    ("sms", "+14155552671 +14155552672"),
    ("sms", "+١٤١٥٥٥٥٢٦٧١"),
    ("sms", "+19005551234"),
    ("sms", "+448431234567"),
    ("sms", "ada@example.com"),
    ("sms", "1" * 3000),
    ("whatsapp", "whatsapp:"),
    ("whatsapp", "whatsapp:0781234567"),
    ("whatsapp", "whatsapp:whatsapp:+14155552671"),
    ("whatsapp", "signal:+14155552671"),
    ("telegram", ""),
    ("telegram", "0"),
    ("telegram", "-0"),
    ("telegram", "007"),
    ("telegram", "+123"),
    ("telegram", "--1"),
    ("telegram", "1.5"),
    ("telegram", "1e9"),
    ("telegram", "١٢٣"),
    ("telegram", "4503599627370496"),
    ("telegram", "99999999999999999999"),
    ("telegram", "ada"),
    ("telegram", "@"),
    ("telegram", "@abc"),
    ("telegram", "@1abcd"),
    ("telegram", "@" + "a" * 33),
    ("telegram", "@news\n"),
    ("telegram", "@ne ws"),
    ("telegram", "https://t.me/news"),
    ("webhook", ""),
    ("webhook", "hooks.example.com"),
    ("webhook", "//hooks.example.com/"),
    ("webhook", "/path"),
    ("webhook", "http://hooks.example.com/"),
    ("webhook", "ftp://hooks.example.com/"),
    ("webhook", "javascript:alert(1)"),
    ("webhook", "file:///etc/passwd"),
    ("webhook", "https://"),
    ("webhook", "https:///path"),
    ("webhook", "https://:443/"),
    ("webhook", "https://ada@hooks.example.com/"),
    ("webhook", "https://ada:secret@hooks.example.com/"),
    ("webhook", "https://@hooks.example.com/"),
    ("webhook", "https://hooks.example.com@evil.example/"),
    ("webhook", "https://hooks.example.com/#part"),
    ("webhook", "https://hooks.example.com/#"),
    ("webhook", "https://hooks.example.com:99999/"),
    ("webhook", "https://hooks.example.com:x/"),
    ("webhook", "https://hooks.example.com:-1/"),
    ("webhook", "https://hooks.example.com/a b"),
    ("webhook", "https://hooks.example.com/\r\nX: y"),
    ("webhook", "https://hooks.exam\tple.com/"),
    ("webhook", "https://hooks.example.com\\@evil.example/"),
    ("webhook", "https://hooks.example.com/é"),
    ("webhook", "https://hooks_.example.com/"),
    ("webhook", "https://-hooks.example.com/"),
    ("webhook", "https://hooks..example.com/"),
    ("webhook", "https://2130706433/"),
    ("webhook", "https://0x7f000001/"),
    ("webhook", "https://127.1/"),
    ("webhook", "https://0177.0.0.1/"),
    ("webhook", "https://[::1%25eth0]/"),
    ("webhook", "https://[::1/"),
    ("webhook", "https://[hooks.example.com]/"),
    ("webhook", "https://hooks.example.com/" + "a" * 2030),
    ("webhook", "https://" + "é." * 1000),
    ("push", "ada"),
    ("", "ada@example.com"),
]


@pytest.mark.parametrize(("channel", "text", "region", "value"), GOOD)
def test_an_address_has_one_form(channel: str, text: str, region: str | None, value: str) -> None:
    assert normalise(channel, text, region) == value
    assert normalise(channel, value) == value, "which is its own"


@pytest.mark.parametrize(("channel", "text"), BAD)
def test_what_is_no_address_is_refused_by_a_sentence_that_does_not_repeat_it(channel: str, text: str) -> None:
    with pytest.raises(ValueError, match=r"^(must|is)\b.*") as error:
        normalise(channel, text)

    assert type(error.value) is ValueError
    assert len(text) < 4 or text not in str(error.value)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__ or error.value.__context__ is None


def test_a_webhook_may_do_without_tls_where_that_is_said() -> None:
    assert normalise("webhook", "http://127.0.0.1:8080/x", plain_http=True) == "http://127.0.0.1:8080/x"
    assert normalise("webhook", "https://example.com/", plain_http=True) == "https://example.com/"
    with pytest.raises(ValueError, match="https or http"):
        normalise("webhook", "ftp://example.com/", plain_http=True)


@pytest.mark.parametrize(
    ("channel", "value", "shown"),
    [
        ("email", "ada@example.com", "a***@e***.com"),
        ("email", "a@b.co.uk", "a***@b***.uk"),
        ("sms", "+25078123456", "+25***56"),
        ("whatsapp", "+14155552671", "+14***71"),
        ("telegram", "-1001234567890", "***90"),
        ("telegram", "@carillon", "***on"),
        ("telegram", "12", "***"),
        ("webhook", "https://hooks.example.com:8443/secret?token=x", "https://hooks.example.com:8443"),
        ("pigeon", "ada", "***"),
    ],
)
def test_a_hint_shows_enough_for_the_owner_and_no_more(channel: str, value: str, shown: str) -> None:
    assert hint(channel, value) == shown


@pytest.mark.parametrize(
    ("number", "masked"),
    [
        ("+25078123456", "+25***56"),  # as the requirement has it
        ("+442079460018", "+44***18"),
        ("+1415555", "+14***55"),
        ("+141555", "***"),
        ("", "***"),
    ],
)
def test_a_phone_number_is_masked_as_the_requirement_has_it(number: str, masked: str) -> None:
    assert mask_phone(number) == masked


def test_a_region_is_a_country_with_phone_numbers() -> None:
    assert all(map(is_region, ("RW", "GB", "US", "AT")))
    assert not any(map(is_region, ("", "rw", "XX", "UK", "GBR", "R\n")))


SEPARATING = [
    "\r",
    "\n",
    "\r\n",
    "\0",
    "\t",
    "\v",
    "\f",
    "\x1b",
    "\x7f",
    "\x85",
    "\u2028",
    "\u2029",
    " ",
    "\u00a0",
]
UNSEEN = ["\u200b", "\u202e", "\ufeff", "\u00ad", "\ud800"]
SPEAKING = ["=?", "<", ">", ",", ";", ":", '"', "(", ")", "\\", "[", "]"]
INJECTED = st.sampled_from([*SEPARATING, *UNSEEN, *SPEAKING])
PLAIN = {"email": "ada@example.com", "telegram": "@carillon", "webhook": "https://hooks.example.com/path"}


@given(st.sampled_from(["email", "telegram"]), INJECTED, st.integers(min_value=0))
def test_nothing_that_a_header_or_a_parser_would_take_for_its_own_gets_through(
    channel: str, injected: str, place: int
) -> None:
    plain = PLAIN[channel]
    place %= len(plain) + 1
    assume(injected != " " or 0 < place < len(plain))  # spaces around it are taken away

    with pytest.raises(ValueError, match=r"^must\b"):
        normalise(channel, plain[:place] + injected + plain[place:])


@given(st.text(max_size=80), st.sampled_from(ADDRESS_CHANNELS), st.sampled_from([None, "RW", "US"]))
def test_whatever_is_written_becomes_a_plain_address_or_a_sentence(
    text: str, channel: str, region: str | None
) -> None:
    try:
        value = normalise(channel, text, region)
    except ValueError as error:
        assert type(error) is ValueError  # noqa: PT017 - most of what is written is no address
        assert len(text) < 8 or text not in str(error)  # noqa: PT017 - as above
    else:
        assert value.isascii()
        assert value.isprintable()
        assert " " not in value
        assert normalise(channel, value) == value


@given(st.emails())
def test_a_mail_address_that_is_taken_is_one_to_the_standard_library(text: str) -> None:
    try:
        value = normalise("email", text)
    except ValueError:
        return
    assert str(MailAddress(addr_spec=value)) == value


@given(st.sampled_from(["https://", "https://x@", "https:"]), st.text(max_size=60))
def test_a_webhook_url_means_the_same_host_to_whoever_reads_it(start: str, rest: str) -> None:
    try:
        value = normalise("webhook", start + rest)
    except ValueError:
        return
    url = urlsplit(value)
    assert (url.scheme, url.username, url.password, url.fragment) == ("https", None, None, "")
    assert url.hostname
    assert "\\" not in value
