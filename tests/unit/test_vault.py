"""Sealing at rest: what opens, what does not, and what may be looked up."""

import pytest

from core.vault import SealBroken, Vault, read_keys

OLD = b"o" * 32
NEW = b"n" * 32
vault = Vault({"a": OLD})


def test_what_was_sealed_opens_in_its_context_only() -> None:
    sealed = vault.seal("+25078123456", "address", "school", "1")

    assert vault.open(sealed, "address", "school", "1") == "+25078123456"
    for context in (("address", "hospital", "1"), ("address", "school", "2"), ("address", "school1", ""), ()):
        with pytest.raises(SealBroken):
            vault.open(sealed, *context)


def test_sealing_twice_looks_different_and_shows_nothing() -> None:
    one, other = (vault.seal("+25078123456", "address") for _ in range(2))

    assert one != other
    assert b"25078" not in one


def test_a_sealed_value_with_any_bit_flipped_does_not_open() -> None:
    sealed = vault.seal("secret", "x")

    for position in range(len(sealed) * 8):
        flipped = bytearray(sealed)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(SealBroken):
            vault.open(bytes(flipped), "x")


@pytest.mark.parametrize("length", range(40))
def test_a_cut_value_does_not_open(length: int) -> None:
    with pytest.raises(SealBroken):
        vault.open(vault.seal("", "x")[:length][: 1 + 1 + 12 + 15], "x")


def test_a_new_key_seals_and_the_old_one_still_opens() -> None:
    rotated = Vault({"b": NEW, "a": OLD})

    assert (
        rotated.open(
            vault.seal("secret"),
        )
        == "secret"
    )
    with pytest.raises(SealBroken):
        vault.open(rotated.seal("secret"))


def test_lookups_survive_a_rotation_and_say_nothing_without_the_key() -> None:
    assert Vault({"b": NEW, "a": OLD}).lookup("sms", "+1") == vault.lookup("sms", "+1")
    assert Vault({"b": NEW}).lookup("sms", "+1") != vault.lookup("sms", "+1")
    assert vault.lookup("sms", "+1") != vault.lookup("sm", "s+1")


def test_a_token_has_one_form() -> None:
    token = vault.token("ada", "unsubscribe")

    assert vault.read_token(token, "unsubscribe") == "ada"
    for crooked in (token + "=", token[:-1], token + "A", "", "é", token.swapcase()):
        with pytest.raises(SealBroken):
            vault.read_token(crooked, "unsubscribe")


def test_keys_are_read_newest_first_and_bad_ones_are_not_repeated() -> None:
    good = "b:" + "bm5u" * 10 + "bm4=," + "a:" + "b29v" * 10 + "b28="

    assert read_keys(good) == {"b": NEW, "a": OLD}
    for bad in ("", "a:", "a:c2hvcnQ=", "hunter2", good + "," + good):
        with pytest.raises(ValueError, match="must be id:base64") as caught:
            read_keys(bad)
        assert bad == "" or bad not in str(caught.value)
