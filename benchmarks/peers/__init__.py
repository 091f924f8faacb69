"""Everybody who is measured: one file each, one line each."""

from collections.abc import Sequence

from benchmarks.peer import Peer
from benchmarks.peers.c_limit import CLimit
from benchmarks.peers.carillon import Durable, Ephemeral
from benchmarks.peers.starlette_naive import NaiveStarlette

PEERS: Sequence[Peer] = (
    Ephemeral(),
    Durable(),
    CLimit("c-batch"),
    CLimit("c-send", each=True),
    NaiveStarlette("websockets"),
    NaiveStarlette("websockets-sansio"),
)
