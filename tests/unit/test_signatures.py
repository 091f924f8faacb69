"""Signatures of webhooks: the providers' own examples, and everything that is one byte away from them."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.signatures import is_meta, is_sendgrid, is_telegram, is_twilio, is_twilio_json, sendgrid_key

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/webhook_signatures.json").read_text())
TWILIO, SENDGRID, HUB = VECTORS["twilio"], VECTORS["sendgrid"], VECTORS["github"]
FORM = TWILIO["cases"][0]
SECRET = "s" * 32
#: Not text of any one encoding, and what hostile clients put into a header.
ODD = ["", "é", "\ud7ff", "sha256=", "=" * 500, "sha256=ZZ"]


def pairs(case):
    return [tuple(pair) for pair in case["parameters"]]


@pytest.mark.parametrize("case", TWILIO["cases"], ids=lambda case: case["what"])
def test_twilios_own_examples_are_right(case):
    assert is_twilio(TWILIO["token"], case["signature"], case["url"], pairs(case))


@given(st.permutations(pairs(FORM)))
def test_the_order_of_twilios_parameters_means_nothing(parameters):
    assert is_twilio(TWILIO["token"], FORM["signature"], FORM["url"], parameters)


def test_twilio_counts_a_value_once_that_stands_twice():
    case = TWILIO["cases"][1]

    assert is_twilio(TWILIO["token"], case["signature"], case["url"], [*pairs(case), ("Digits", "1234")])


@given(st.data())
def test_no_character_of_a_twilio_request_can_be_changed(data):
    parameters = pairs(FORM)
    index = data.draw(st.integers(0, len(parameters) - 1))
    name, value = parameters[index]
    place = data.draw(st.integers(0, len(value) - 1))
    other = data.draw(st.characters(codec="utf-8").filter(lambda character: character != value[place]))
    parameters[index] = name, value[:place] + other + value[place + 1 :]

    assert not is_twilio(TWILIO["token"], FORM["signature"], FORM["url"], parameters)


@pytest.mark.parametrize(
    "url",
    [
        "https://mycompany.com/myapp.php?bar=2&foo=1",
        "http://mycompany.com/myapp.php?foo=1&bar=2",
        "https://mycompany.com:443/myapp.php?foo=1&bar=2",
        "https://other.com/myapp.php?foo=1&bar=2",
        "https://mycompany.com/myapp.php?foo=1&bar=2&",
    ],
)
def test_twilio_has_signed_one_url_exactly(url):
    assert not is_twilio(TWILIO["token"], FORM["signature"], url, pairs(FORM))


def test_a_parameter_too_many_or_too_few_is_no_twilio_request():
    parameters = pairs(FORM)

    assert not is_twilio(TWILIO["token"], FORM["signature"], FORM["url"], [*parameters, ("Extra", "")])
    assert not is_twilio(TWILIO["token"], FORM["signature"], FORM["url"], parameters[1:])


def test_a_json_body_counts_by_its_hash_in_twilios_url():
    case = TWILIO["json"]
    body = case["body"].encode()

    assert is_twilio_json(TWILIO["token"], case["signature"], case["url"], body)
    assert not is_twilio_json(TWILIO["token"], case["signature"], case["url"], body + b" ")
    assert not is_twilio_json(TWILIO["token"], FORM["signature"], FORM["url"], body)
    assert not is_twilio_json(TWILIO["token"], case["signature"], case["url"] + "&bodySHA256=0", body)


def test_metas_signature_is_that_of_the_published_example():
    assert is_meta(HUB["secret"], HUB["signature"], HUB["body"].encode())


@pytest.mark.parametrize(
    "body",
    [
        '{"text":"\\ud83d\\ude00 caf\\u00e9"}',
        '{"text":"😀 café"}',
        '{"a":"\\/","b":"\\u003c","c":1.0,"d":1e3}',
        '{"a":1,"a":2}',
        " {} ",
        "\ufeff{}",
    ],
)
def test_meta_signs_the_bytes_as_they_came_whatever_they_mean(body):
    raw = body.encode()
    signature = "sha256=" + hmac.new(SECRET.encode(), raw, hashlib.sha256).hexdigest()

    assert is_meta(SECRET, signature, raw)
    try:
        again = json.dumps(json.loads(body), separators=(",", ":")).encode()
    except ValueError:
        return
    assert again == raw or not is_meta(SECRET, signature, again)


@pytest.mark.parametrize("signature", ODD)
def test_what_is_no_signature_opens_nothing(signature):
    key = sendgrid_key(SENDGRID["key"])

    assert not is_meta(SECRET, signature, b"{}")
    assert not is_twilio(SECRET, signature, "https://x", [])
    assert not is_telegram(SECRET, [signature])
    assert not is_sendgrid(key, signature, "1", b"[]")


def test_telegrams_secret_must_be_there_once_and_right():
    assert is_telegram(SECRET, [SECRET])
    for presented in ([], [SECRET, SECRET], ["t" * 32], [SECRET[:-1]], [f"{SECRET} "]):
        assert not is_telegram(SECRET, presented)


def test_sendgrids_own_example_is_right_and_its_neighbours_are_not():
    key, body = sendgrid_key(SENDGRID["key"]), SENDGRID["body"].encode()
    signature, timestamp = SENDGRID["signature"], SENDGRID["timestamp"]

    assert is_sendgrid(key, signature, timestamp, body)
    assert not is_sendgrid(sendgrid_key(SENDGRID["other_key"]), signature, timestamp, body)
    assert not is_sendgrid(key, SENDGRID["other_signature"], timestamp, body)
    assert not is_sendgrid(key, signature, "1600112503", body)
    assert not is_sendgrid(key, signature, timestamp, body.rstrip())


@pytest.mark.parametrize(
    "text", ["", "bm8=", "é", "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE", SENDGRID["key"][:-4]]
)
def test_what_is_no_key_of_sendgrids_is_refused_without_being_repeated(text):
    with pytest.raises(ValueError, match="P-256") as refused:
        sendgrid_key(text)
    assert not text or text not in str(refused.value)
