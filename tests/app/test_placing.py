"""One line on where a node trains and why."""

from __future__ import annotations

import pytest

from p2pfusion.app.placing import explained, seconds, share
from p2pfusion.core.footprint import Load
from p2pfusion.core.place import CPU, Place
from p2pfusion.net.choosing import RATES, Step, Wanted, choose_rate
from p2pfusion.net.settling import Probed, Settled

GPU = Place("cuda", "bfloat16")


def costs(whole_s: float, *, is_measured: bool = True) -> dict[float, Step]:
    sizes = {rate: round(1e6 * rate**2) for rate in RATES}
    return {
        rate: Step(whole_s * rate**2, Load(size, size), round(1e7 * rate), is_measured) for rate, size in sizes.items()
    }


def settled(*probed: Probed, failed: tuple[str, ...] = ()) -> Settled:
    return Settled(probed[0].place, probed[0].choice.rate, probed[0].wanted.steps, probed, failed)


def probed(place: Place, whole_s: float, free_bytes: int | None = None, *, is_measured: bool = True) -> Probed:
    wanted = Wanted(steps=40, free_bytes=free_bytes)
    return Probed(place, choose_rate(costs(whole_s, is_measured=is_measured), wanted), wanted)


def test_what_is_as_ever_is_not_said() -> None:
    assert explained(Settled(CPU, 0.5, 40)) is None
    assert explained(Settled(GPU, 0.5, 40)) == "trains on cuda in bfloat16"


def test_the_whole_needs_no_reason() -> None:
    assert explained(settled(probed(CPU, 0.01))) == (
        "trains slices of 100% on cpu in float32: a round of 40 steps takes about 0.4 s and 30.0 MB of memory"
    )


def test_why_not_more() -> None:
    assert explained(settled(probed(CPU, 0.25), probed(GPU, 1.0))) == (
        "trains slices of 50% on cpu in float32: a round of 40 steps takes about 2.5 s and 10.0 MB of memory; "
        "100% would take 10 s, where 5 s are wanted; on cuda in bfloat16 it would be 25% and 2.5 s"
    )
    assert explained(settled(probed(CPU, 0.01, 40_000_000, is_measured=False))) == (
        "trains slices of 50% on cpu in float32: a round of 40 steps takes about 0.1 s and 10.0 MB of memory; "
        "100% would take up to 30.0 MB, where half of 40.0 MB is free for it"
    )


def test_what_no_axis_cuts_is_told_by_its_parameters() -> None:
    def told(networks_all: int, larger: Load) -> str | None:
        load = Load(19_714, 19_714, networks=1, networks_all=networks_all, is_sliced=False)
        steps = {0.5: Step(0.01, load, 1000), 1.0: Step(1.0, larger, 1000)}
        wanted = Wanted(steps=40, free_bytes=None)
        return explained(settled(Probed(CPU, choose_rate(steps, wanted), wanted)))

    both = Load(39_428, 19_714, networks=2, networks_all=2, is_sliced=False)
    assert told(2, both) == (
        "trains 1 of 2 networks, 19 714 parameters on cpu in float32: "
        "a round of 40 steps takes about 0.4 s and 395 kB of memory;"
        " 2 of 2 networks, 39 428 parameters would take 40 s, where 5 s are wanted"
    )
    small = Load(19_714, 19_714, is_sliced=False)
    assert str(told(1, small)).startswith("trains 19 714 parameters on cpu in float32: ")


def test_the_smallest_all_the_same() -> None:
    assert explained(settled(probed(CPU, 64.0), failed=("mps in float32: no such operation\n  at line 3",))) == (
        "trains slices of 12.5% on cpu in float32: a round of 40 steps takes about 40 s and 1.6 MB of memory; "
        "more than is good, "
        "where 5 s are wanted, but there is no smaller one; not on mps in float32: no such operation"
    )


@pytest.mark.parametrize(
    ("duration_s", "words"),
    [(0.0032, "3.2 ms"), (0.0994, "99 ms"), (0.0996, "0.1 s"), (0.449, "0.45 s"), (12.3, "12 s"), (123.0, "120 s")],
)
def test_seconds_have_two_digits(duration_s: float, words: str) -> None:
    assert seconds(duration_s) == words


def test_shares_read_as_the_option_does() -> None:
    assert [share(rate) for rate in RATES] == ["12.5%", "25%", "50%", "100%"]
