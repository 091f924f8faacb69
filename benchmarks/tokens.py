"""
python -m benchmarks.tokens [--tokens 1000] [--rounds 5]

What a token costs when it is first seen, when it is seen again, and by PyJWT's own decode: microseconds of
one core, best of the rounds, interleaved. And what a remembered token holds.
"""

import argparse
import time
import tracemalloc
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from core.identity import TokenSettings, Verifier
from core.keys import Key, KeySet
from core.revocation import Revocations

SECRET = "a secret of this benchmark, 32 bytes or more"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    now = time.time()
    print("| algorithm | first seen | seen again | PyJWT | bytes remembered |\n|---|---|---|---|---|")
    for algorithm, signing, checking in _keys():
        tokens = [
            jwt.encode({"sub": f"user-{n}", "iat": int(now), "exp": int(now) + 3600}, signing, algorithm)
            for n in range(options.tokens)
        ]
        first: list[float] = []
        again: list[float] = []
        theirs: list[float] = []
        for _ in range(options.rounds):
            verifier = Verifier(KeySet([Key(algorithm, checking)]), TokenSettings(), Revocations())
            first.append(_cost(partial(verifier.verify, now=now), tokens))
            again.append(_cost(partial(verifier.verify, now=now), tokens))
            theirs.append(_cost(partial(jwt.decode, key=checking, algorithms=[algorithm]), tokens))
        size = _remembered(
            Verifier(KeySet([Key(algorithm, checking)]), TokenSettings(), Revocations()), tokens, now
        )
        print(f"| {algorithm} | {min(first):.1f} | {min(again):.2f} | {min(theirs):.1f} | {size} |")


def _keys() -> list[tuple[str, Any, Any]]:
    """(algorithm, what signs, what checks)"""
    rsa_key = rsa.generate_private_key(65537, 2048)
    ec_key = ec.generate_private_key(ec.SECP256R1())
    ed_key = ed25519.Ed25519PrivateKey.generate()
    return [
        ("HS256", SECRET, SECRET.encode()),
        ("RS256", rsa_key, rsa_key.public_key()),
        ("ES256", ec_key, ec_key.public_key()),
        ("EdDSA", ed_key, ed_key.public_key()),
    ]


def _cost(check: Callable[[str], Any], tokens: Sequence[str]) -> float:
    """Microseconds of CPU per token."""
    begin = time.process_time()
    for token in tokens:
        check(token)
    return (time.process_time() - begin) / len(tokens) * 1e6


def _remembered(verifier: Verifier, tokens: Sequence[str], now: float) -> int:
    """Bytes that one remembered token holds."""
    tracemalloc.start()
    for token in tokens:
        verifier.verify(token, now)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return held // len(tokens)


if __name__ == "__main__":
    main()
