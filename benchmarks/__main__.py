"""
python -m benchmarks [--only w1] [--runs 3] [--peers c-batch,starlette-sansio] [--polling] [--json FILE]

Runs every workload with every peer that this machine has, round by round, and prints one Markdown table each.
What the figures mean: benchmarks/README.md.
"""

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.load import LoadError, Run, measure
from benchmarks.machine import Cores, load_average
from benchmarks.peer import Peer
from benchmarks.peers import PEERS
from benchmarks.table import cost, markdown, notes
from benchmarks.workload import WORKLOADS, Workload


def main() -> int:
    """0, or 1 when a peer that could run did not end a single run."""
    options = _options()
    cores = Cores.of_this_machine()
    healthy, kept = True, {}
    for name in options.only:
        workload = WORKLOADS[name]
        peers, left_out = _chosen(workload, options.peers)
        before = load_average()
        results, broken = _rounds(workload, peers, cores, options.runs, polling=options.polling)
        kept[name] = {peer: [asdict(run) for run in runs] for peer, runs in results.items()}
        healthy = healthy and all(results.values())

        print(f"\n### {workload.title}\n")
        print(markdown(results, [peer.name for peer in peers if not peer.is_ours]))
        print(f"\nMedian (smallest-largest) of {options.runs} interleaved rounds. {_machine(cores)}")
        print(
            "Receivers "
            + ("poll: nobody is woken up." if options.polling else "sleep until something arrives.")
        )
        print(f"Load average {before:.1f} before, {load_average():.1f} after (this benchmark included).")
        for line in [*notes(results), *broken, *left_out]:
            print(f"- {line}")
    if options.json:
        options.json.write_text(json.dumps(kept, indent=1))
    return 0 if healthy else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Carillon beside its peers.")
    parser.add_argument(
        "--only", action="append", choices=sorted(WORKLOADS), help="a workload; may be repeated"
    )
    parser.add_argument("--runs", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--peers", type=lambda names: names.split(","), help="names, separated by commas")
    parser.add_argument("--polling", action="store_true", help="receivers never sleep (README: wake-ups)")
    parser.add_argument("--json", type=Path, help="write every single run to this file")
    options = parser.parse_args()
    options.only = options.only or list(WORKLOADS)
    unknown = set(options.peers or ()) - {peer.name for peer in PEERS}
    if unknown:
        parser.error(
            f"no such peer: {', '.join(sorted(unknown))}; there are {', '.join(p.name for p in PEERS)}"
        )
    return options


def _chosen(workload: Workload, names: Sequence[str] | None) -> tuple[list[Peer], list[str]]:
    """The peers to run, and one line for each that this machine cannot run."""
    peers, left_out = [], []
    for peer in PEERS:
        if workload.name not in peer.workloads or (names and peer.name not in names):
            continue
        reason = peer.missing()
        if reason:
            left_out.append(f"{peer.name} was left out: {reason}.")
        else:
            peers.append(peer)
    return peers, left_out


def _rounds(
    workload: Workload, peers: Sequence[Peer], cores: Cores, rounds: int, *, polling: bool
) -> tuple[dict[str, list[Run]], list[str]]:
    """Run 1 of every peer, then run 2 of every peer, ...: what moves with the neighbours moves for all."""
    results: dict[str, list[Run]] = {peer.name: [] for peer in peers}
    broken = []
    for number in range(1, rounds + 1):
        for peer in peers:
            with tempfile.TemporaryDirectory(prefix="carillon-bench-") as folder:
                try:
                    with peer.serve(workload, cores, Path(folder)) as serving:
                        run = measure(serving, workload, cores, Path(folder), polling=polling)
                except (LoadError, RuntimeError, TimeoutError) as reason:
                    broken.append(f"{peer.name}: run {number} failed: {reason}")
                    print(broken[-1], file=sys.stderr, flush=True)
                    continue
            results[peer.name].append(run)
            print(
                f"{workload.name} {number}/{rounds} {peer.name}: {cost(run):.2f} CPU s per M,"
                f" {run.expected - run.deliveries} missing, handshakes {run.connecting:.2f} s"
                f" ({run.connecting_cpu:.2f} CPU s), steal {run.stolen:.0%}",
                file=sys.stderr,
                flush=True,
            )
    return results, broken


def _machine(cores: Cores) -> str:
    return (
        f"Python {platform.python_version()}, Linux {platform.release()}; server on core {cores.server},"
        f" receivers on {', '.join(map(str, cores.receivers))}, publishers and databases on {cores.others}."
    )


if __name__ == "__main__":
    sys.exit(main())
