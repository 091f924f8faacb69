"""
Run Autobahn's cases against one echo server and print what each found, as JSON.

    python tests/conformance/autobahn/driver.py ws://127.0.0.1:9001/ [case ...]

The cases are clients that misbehave on purpose; this is the part of the suite's fuzzing client that they need,
on today's autobahn and twisted. Groups: framing, pings, reserved bits, opcodes, fragmentation, UTF-8, closing,
and 10, auto-fragmentation. Left out: 9 (load), 12 and 13 (compression).
"""

# ruff: noqa: N802, N803  the names are those that autobahn and the cases call

import importlib
import json
import sys

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol, connectWS
from compat import octets
from prepare import CASES
from twisted.internet import reactor

sys.path.append(str(CASES))
autobahn_cases = importlib.import_module("case")

GROUPS = frozenset(["1", "2", "3", "4", "5", "6", "7", "10"])
DEADLINE_SECONDS = 150.0


def name(case):
    return case.__name__[4:].replace("_", ".")


def like_octets(expected):
    """Texts and bytes in one form, however deep, so that they compare."""
    if isinstance(expected, list | tuple):
        return tuple(map(like_octets, expected))
    return octets(expected) if isinstance(expected, str) else expected


autobahn_cases.Case.compare = lambda self, a, b: like_octets(a) == like_octets(b)


class Client(WebSocketClientProtocol):
    """One case on one connection: the protocol object that the cases call `p`."""

    createWirelog = True  # noqa: N815  a case reads it

    def __init__(self, case):
        super().__init__()
        self.case = case(self)
        self.connectionWasOpen = False
        self.txFrameStats = {}
        self.rxFrameStats = {}

    # The cases call.

    def _while_open(self, delay, action):
        reactor.callLater(delay, lambda: self.state != self.STATE_CLOSED and action())

    def continueLater(self, delay, action, tag=None):
        self._while_open(delay, action)

    def killAfter(self, delay):
        self._while_open(delay, lambda: self.dropConnection(abort=True))

    def closeAfter(self, delay):
        self._while_open(delay, self.sendClose)

    def enableWirelog(self, enabled): ...

    def sendFrame(self, opcode, payload=b"", fin=True, rsv=0, mask=None, *rest, **options):
        self.txFrameStats[opcode] = self.txFrameStats.get(opcode, 0) + 1
        mask = octets(mask) if mask else mask
        return super().sendFrame(opcode, octets(payload), fin, rsv, mask, *rest, **options)

    def sendMessage(self, payload, isBinary=False, *rest, **options):
        return super().sendMessage(octets(payload), isBinary, *rest, **options)

    def sendMessageFrameData(self, payload, sync=False):
        return super().sendMessageFrameData(octets(payload), sync)

    def sendCloseFrame(self, code=None, reasonUtf8=None, isReply=False):
        reason = octets(reasonUtf8) if reasonUtf8 is not None else None
        return super().sendCloseFrame(code=code, reasonUtf8=reason, isReply=isReply)

    # autobahn calls.

    def logRxOctets(self, data): ...

    def logTxOctets(self, data, sync): ...

    def logRxFrame(self, header, payload): ...

    def logTxFrame(self, header, payload, repeat_length, chop_size, sync): ...

    def onOpen(self):
        self.connectionWasOpen = True
        self.case.onOpen()

    def onMessage(self, payload, is_binary):
        self.case.onMessage(payload.decode("latin-1"), is_binary)

    def onPing(self, payload):
        super().onPing(payload)
        self.case.onPing(payload.decode("latin-1"))

    def onPong(self, payload):
        self.case.onPong(payload.decode("latin-1"))

    def onClose(self, was_clean, code, reason):
        self.case.onClose(was_clean, code, reason)

    def connectionLost(self, reason):
        super().connectionLost(reason)
        self.case.onConnectionLost(self.failedByMe)
        self.factory.done(self.case.behavior, self.case.behaviorClose, self.remoteCloseCode)


class Cases(WebSocketClientFactory):
    """One connection after the other, one case each."""

    noisy = False

    def __init__(self, url, cases):
        super().__init__(url)
        self.setProtocolOptions(failByDrop=False)
        self.cases = cases
        self.results = {}

    def buildProtocol(self, address):
        client = Client(self.cases[len(self.results)])
        client.factory = self
        return client

    def done(self, behavior, close, code):
        self.results[name(self.cases[len(self.results)])] = [behavior, close, code]

    def clientConnectionLost(self, connector, reason):
        if len(self.results) < len(self.cases):
            connector.connect()
        else:
            reactor.stop()

    def clientConnectionFailed(self, connector, reason):
        reactor.stop()


def main(url, chosen):
    cases = [case for case in autobahn_cases.Cases if name(case).partition(".")[0] in GROUPS]
    if chosen:
        cases = [case for case in cases if name(case) in chosen]
    factory = Cases(url, cases)
    connectWS(factory)
    reactor.callLater(DEADLINE_SECONDS, reactor.stop)
    reactor.run()
    unfinished = {name(case): ["UNFINISHED", "UNFINISHED", None] for case in cases}
    print(json.dumps(unfinished | factory.results))


if __name__ == "__main__":
    main(sys.argv[1], frozenset(sys.argv[2:]))
