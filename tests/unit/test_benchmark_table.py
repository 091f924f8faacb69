"""The table of the benchmarks: what is computed from the runs, and what is said beside it."""

import math
from dataclasses import replace

import pytest

from benchmarks.load import Run, merged, percentile
from benchmarks.table import cost, markdown, notes, ratio, spread
from benchmarks.workload import MARK, W1, compact

RUN = Run(
    cpu=0.5,
    beside_cpu=0.0,
    expected=500_000,
    deliveries=500_000,
    duplicates=0,
    failed=0,
    first_failure="",
    duration=0.25,
    latency_us={1_000: 250_000, 9_000: 245_000, 20_000: 5_000},
    answer_us={900: 500},
    reads=65_000,
    received_bytes=102_000_000,
    closed={},
    connecting=0.1,
    connecting_cpu=0.05,
    waited=0.025,
    stolen=0.04,
)


def test_the_cost_is_cpu_seconds_per_million_deliveries() -> None:
    assert cost(RUN) == pytest.approx(1.0)


def test_a_cell_is_the_median_and_its_spread() -> None:
    assert spread([3.0, 1.0, 2.0], ".1f") == "2.0 (1.0-3.0)"
    assert spread([3.0], ".1f") == "3.0"


def test_a_ratio_compares_within_a_round() -> None:
    quiet, busy = replace(RUN, cpu=0.5), replace(RUN, cpu=5.0)

    assert ratio([replace(quiet, cpu=1.0), replace(busy, cpu=10.0)], [quiet, busy]) == pytest.approx(2.0)


def test_a_percentile_is_the_bound_that_so_many_stayed_within() -> None:
    assert percentile(RUN.latency_us, 0.5) == 1.0
    assert percentile(RUN.latency_us, 0.99) == 9.0
    assert percentile(RUN.latency_us, 1.0) == 20.0
    assert math.isnan(percentile({}, 0.5))


def test_histograms_of_several_receivers_add_up() -> None:
    assert merged([[(10, 1), (20, 2)], [(20, 3)]]) == {10: 1, 20: 5}


def test_a_row_names_its_peer_and_its_ratio_to_each_reference() -> None:
    table = markdown({"ours": [replace(RUN, cpu=1.0)], "c-batch": [RUN]}, ["c-batch"])

    head, _, ours, reference = table.splitlines()
    assert head.startswith("| peer | n | CPU s per M | × c-batch | deliveries/s |")
    assert ours.startswith("| ours | 1 | 2.00 | 2.00 | 2,000,000 | 1.0 | 9.0 | 0 | 0.13 | 204 | 10 | 4 |")
    assert reference.startswith("| c-batch | 1 | 1.00 | 1 |")


def test_everything_that_went_wrong_is_said_below_the_table() -> None:
    bad = replace(
        RUN, beside_cpu=0.1, duplicates=3, failed=2, first_failure="HTTP/1.1 503", closed={"1013": 7}
    )

    said = notes({"ours": [bad], "c-batch": [RUN]})

    assert said == [
        "ours: PostgreSQL used 0.20 CPU s per M beside the server, not in the table.",
        "ours: 3 duplicate deliveries.",
        "ours: 2 publications refused or unanswered.",
        "ours: first refusal: HTTP/1.1 503",
        "ours: connections ended by the server: 7 with 1013.",
    ]


def test_the_payload_of_w1_has_two_hundred_bytes_and_a_mark() -> None:
    payload = compact(W1.payload())

    assert len(payload) == 200
    assert MARK.encode() in payload
