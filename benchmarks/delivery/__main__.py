"""
python -m benchmarks.delivery [--only drain|latency] [--rounds 3] [--deliveries 10000] [--campaign 20000]

Prints one Markdown table for each. What the figures mean: benchmarks/README.md, "Deliveries".
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.delivery import drain
from benchmarks.delivery.drain import Drained
from benchmarks.delivery.installation import sink
from benchmarks.delivery.latency import PRIORITIES, Latency, latency
from benchmarks.machine import Cores, load_average
from benchmarks.peers.carillon import postgres
from benchmarks.table import spread

PEERS = {"carillon": drain.ours, "procrastinate": drain.theirs}


def main() -> int:
    """0, or 1 when something was missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.delivery")
    parser.add_argument("--only", choices=["drain", "latency"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--deliveries", type=int, default=10_000)
    parser.add_argument("--campaign", type=int, default=20_000)
    parser.add_argument("--peers", type=lambda names: names.split(","), default=list(PEERS))
    options = parser.parse_args()
    cores = Cores.of_this_machine()
    print(f"Load average {load_average():.1f} before.", file=sys.stderr)
    if options.only != "latency":
        results = _drain(cores, options.peers, options.rounds, options.deliveries)
        print(table(results))
    if options.only != "drain":
        print(latency_table(_latency(cores, options.rounds, options.campaign)))
    return 0


def _latency(cores: Cores, rounds: int, campaign: int) -> list[Latency]:
    runs = []
    for number in range(1, rounds + 1):
        with TemporaryDirectory(prefix="carillon-bench-") as made, postgres(cores.others) as (dsn, _):
            folder = Path(made)
            with sink(cores, folder) as other:
                run = asyncio.run(latency(dsn, other, cores, folder, campaign, Random(number)))
        runs.append(run)
        worst = max(max(times) for times in run.busy.values())
        print(
            f"{number}/{rounds}: worst of the direct ones {worst:.2f} s, campaign {run.campaign_rate:.0f}/s,"
            f" {run.missing} missing",
            file=sys.stderr,
            flush=True,
        )
    return runs


def latency_table(runs: Sequence[Latency]) -> str:
    head = ["direct notifications", "priority", "p50 ms", "p99 ms", "longest ms"]
    rows = [head, ["---"] * len(head)]
    for phase, of in (("alone", "idle"), (f"while {runs[0].campaign:,} of a campaign drain", "busy")):
        for priority in PRIORITIES:
            times = [sorted(getattr(run, of)[priority]) for run in runs]
            figures = [[at(one, share) * 1000 for one in times] for share in (0.5, 0.99, 1.0)]
            rows.append([phase, priority, *(spread(values, ".0f") for values in figures)])
    text = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    woken = "woken over Redis" if runs[0].woken else "looks once a second: there is no Redis here"
    return text + (
        f"\n\nThe campaign drained at {spread([run.campaign_rate for run in runs], ',.0f')} deliveries/s; at most"
        f" {max(run.greatest_depth for run in runs):,} waited; {sum(run.missing for run in runs)} missing. The worker is {woken}."
    )


def at(times: Sequence[float], share: float) -> float:
    """The value below which so large a share lies; times: sorted."""
    return times[min(int(len(times) * share), len(times) - 1)]


def _drain(cores: Cores, peers: Sequence[str], rounds: int, deliveries: int) -> dict[str, list[Drained]]:
    """Round 1 of every peer, then round 2 of every peer, …, each on a new PostgreSQL."""
    results: dict[str, list[Drained]] = {name: [] for name in peers}
    for number in range(1, rounds + 1):
        for name in peers:
            with TemporaryDirectory(prefix="carillon-bench-") as made, postgres(cores.others) as (dsn, pid):
                folder = Path(made)
                with sink(cores, folder) as other:
                    run = asyncio.run(PEERS[name](dsn, pid, other, cores, folder, deliveries))
            results[name].append(run)
            print(
                f"{number}/{rounds} {name}: {run.rate:.0f}/s, {run.cost:.3f} CPU s per 1,000, PostgreSQL"
                f" {run.postgres_cost:.3f}, {run.missing} missing, {run.repeated} repeated",
                file=sys.stderr,
                flush=True,
            )
    return results


def table(results: dict[str, list[Drained]]) -> str:
    head = [
        "worker",
        "deliveries/s",
        "CPU s per 1,000",
        "PostgreSQL CPU s per 1,000",
        "deliveries per CPU s",
        "missing",
    ]
    rows = [head, ["---"] * len(head)]
    for name, runs in results.items():
        rows.append(
            [
                name,
                spread([run.rate for run in runs], ",.0f"),
                spread([run.cost for run in runs], ".3f"),
                spread([run.postgres_cost for run in runs], ".3f"),
                spread([1000 / run.cost for run in runs], ",.0f"),
                str(sum(run.missing for run in runs)),
            ]
        )
    text = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    if {"carillon", "procrastinate"} <= results.keys():
        pairs = list(zip(results["procrastinate"], results["carillon"], strict=True))
        text += (
            f"\n\nDeliveries per CPU second of the worker, Carillon to procrastinate: {median(a.cost / b.cost for a, b in pairs):.2f};"
            f" with PostgreSQL's: {median((a.cost + a.postgres_cost) / (b.cost + b.postgres_cost) for a, b in pairs):.2f};"
            f" deliveries/s: {median(b.rate / a.rate for a, b in pairs):.2f} (medians of the rounds)."
        )
    return text


if __name__ == "__main__":
    sys.exit(main())
