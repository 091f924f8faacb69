"""Runs into one Markdown table: medians, spread, ratios. Pure."""

from collections.abc import Callable, Mapping, Sequence
from statistics import median

from benchmarks.load import Run, percentile

COLUMNS: Sequence[tuple[str, Callable[[Run], float], str]] = (
    ("deliveries/s", lambda run: run.deliveries / run.duration if run.duration > 0 else 0.0, ",.0f"),
    ("latency p50 ms", lambda run: percentile(run.latency_us, 0.5), ",.1f"),
    ("p99 ms", lambda run: percentile(run.latency_us, 0.99), ",.1f"),
    ("missing", lambda run: run.expected - run.deliveries, ",.0f"),
    ("reads/delivery", lambda run: run.reads / max(1, run.deliveries), ".2f"),
    ("bytes/delivery", lambda run: run.received_bytes / max(1, run.deliveries), ".0f"),
    ("core wait %", lambda run: run.waited / run.duration * 100 if run.duration > 0 else 0.0, ".0f"),
    ("steal %", lambda run: run.stolen * 100, ".0f"),
)


def cost(run: Run) -> float:
    """CPU seconds of the server per million deliveries."""
    return run.cpu / max(1, run.deliveries) * 1e6


def spread(values: Sequence[float], form: str) -> str:
    """Median (smallest-largest); the median alone of a single value."""
    middle = format(median(values), form)
    return middle if len(values) == 1 else f"{middle} ({min(values):{form}}-{max(values):{form}})"


def ratio(runs: Sequence[Run], others: Sequence[Run]) -> float:
    """
    How many times the cost of the others: the median over the rounds, each compared within itself, because the
    neighbours' load moves from one round to the next.
    """
    return median(cost(run) / cost(other) for run, other in zip(runs, others, strict=False))


def markdown(results: Mapping[str, Sequence[Run]], references: Sequence[str]) -> str:
    """
    One row per peer in the order given; one ratio column per reference that has run.

    results: peer name -> its runs, run i of each from the same round.
    """
    shown = [name for name in references if results.get(name)]
    head = ["peer", "n", "CPU s per M", *(f"× {name}" for name in shown), *(title for title, _, _ in COLUMNS)]
    rows = [
        [
            name,
            str(len(runs)),
            spread([cost(run) for run in runs], ".2f"),
            *("1" if name == other else f"{ratio(runs, results[other]):.2f}" for other in shown),
            *(spread([figure(run) for run in runs], form) for _, figure, form in COLUMNS),
        ]
        for name, runs in results.items()
        if runs
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def notes(results: Mapping[str, Sequence[Run]]) -> list[str]:
    """What a reader of the table must know besides: work done beside the server, and everything that went wrong."""
    found = []
    for name, runs in results.items():
        if any(run.beside_cpu for run in runs):
            beside = spread([run.beside_cpu / max(1, run.deliveries) * 1e6 for run in runs], ".2f")
            found.append(f"{name}: PostgreSQL used {beside} CPU s per M beside the server, not in the table.")
        for trouble, count in (
            ("duplicate deliveries", sum(run.duplicates for run in runs)),
            ("publications refused or unanswered", sum(run.failed for run in runs)),
        ):
            if count:
                found.append(f"{name}: {count} {trouble}.")
        found += [f"{name}: first refusal: {run.first_failure}" for run in runs if run.first_failure][:1]
        closed = [f"{count} with {code}" for run in runs for code, count in run.closed.items()]
        if closed:
            found.append(f"{name}: connections ended by the server: {', '.join(closed)}.")
    return found
