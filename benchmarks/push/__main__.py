"""
python -m benchmarks.push [--part encryption|sending|campaign] [--rounds 7]

What Web Push costs beside its peers. Every part interleaves its variants: round 1 of each, then round 2 of each.
"""

from __future__ import annotations

import argparse
import platform
import ssl

import cryptography
from cryptography.hazmat.backends.openssl import backend

from benchmarks.machine import load_average
from benchmarks.push import campaign, encryption, sending
from benchmarks.push.part import Part

PARTS: tuple[Part, ...] = (encryption.PART, sending.PART, campaign.PART)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.push", description="Web Push beside its peers."
    )
    parser.add_argument("--part", action="append", choices=[part.name for part in PARTS], help="all")
    parser.add_argument("--rounds", type=int, default=7, help="of each variant (7)")
    options = parser.parse_args()
    for part in PARTS:
        if options.part and part.name not in options.part:
            continue
        before = load_average()
        print(f"\n### {part.title}\n")
        print(part.run(options.rounds))
        print(
            f"\nMedian (smallest-largest) of {options.rounds} interleaved rounds, load average {before:.1f} before. "
            f"Python {platform.python_version()}, cryptography {cryptography.__version__} "
            f"({backend.openssl_version_text()}), ssl {ssl.OPENSSL_VERSION}."
        )


if __name__ == "__main__":
    main()
