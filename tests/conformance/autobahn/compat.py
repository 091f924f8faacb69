"""What the translated cases import: byte strings of Python 2 are text of code points below 256 here."""

import binascii as _binascii

from autobahn.websocket.utf8validator import Utf8Validator as _Utf8Validator


def octets(text):
    """The bytes that such a text stands for."""
    return text.encode("latin-1") if isinstance(text, str) else bytes(text)


class binascii:  # noqa: N801  the name that the cases import
    """The two functions they use."""

    @staticmethod
    def b2a_hex(data):
        return _binascii.b2a_hex(octets(data)).decode()

    @staticmethod
    def a2b_hex(data):
        return _binascii.a2b_hex(data).decode("latin-1")


class Utf8Validator(_Utf8Validator):
    """Autobahn's own, for such texts."""

    def validate(self, data):
        return super().validate(octets(data))
