"""One line for people: where this node trains, at which slice, and why. Pure text; who decided is `net.choosing`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pfusion.app.words import data_size, trained

if TYPE_CHECKING:
    from p2pfusion.net.choosing import Limit, Step
    from p2pfusion.net.settling import Probed, Settled


def explained(settled: Settled) -> str | None:
    """What to say at the start; None where nothing was chosen and nothing is out of the ordinary."""
    if not settled.probed:
        is_usual = settled.place.device == "cpu" and settled.place.autocast is None
        return None if is_usual else f"trains on {settled.place}"
    taken, *others = settled.probed
    choice, steps = taken.choice, settled.steps
    slices = "slices of " if choice.step.load.is_sliced else ""
    text = (
        f"trains {slices}{_part(choice.rate, choice.step)} on {settled.place}: a round of {steps} steps takes about "
        f"{seconds(steps * choice.step.seconds)} and {data_size(choice.step.needed_bytes)} of memory"
    )
    parts = [text, *_why(taken, settled), *(_other(one, settled) for one in others)]
    return "; ".join([*parts, *(f"not on {why.splitlines()[0]}" for why in settled.failed)])


def share(rate: float) -> str:
    """`12.5%`, as `--slice` reads it."""
    return f"{100 * rate:.4g}%"


def seconds(duration_s: float) -> str:
    """Two digits: `3.2 ms`, `0.45 s`, `12 s`."""
    return f"{1000 * duration_s:.2g} ms" if duration_s < 0.0995 else f"{float(f'{duration_s:.2g}'):g} s"


def _part(rate: float, step: Step) -> str:
    """Which part of the model: a rate says nothing of what no axis cuts."""
    return share(rate) if step.load.is_sliced else trained(step.load)


def _why(taken: Probed, settled: Settled) -> list[str]:
    choice = taken.choice
    if choice.limit is None:
        return []
    if not choice.fits:
        return [f"more than is good, {_beyond(choice.limit, taken)}, but there is no smaller one"]
    if choice.larger is None:
        return []
    rate, step = choice.larger
    return [f"{_part(rate, step)} would take {_amount(choice.limit, step, settled)}, {_beyond(choice.limit, taken)}"]


def _amount(limit: Limit, step: Step, settled: Settled) -> str:
    amount = seconds(settled.steps * step.seconds) if limit == "time" else data_size(step.needed_bytes)
    return amount if step.is_measured else f"up to {amount}"


def _beyond(limit: Limit, taken: Probed) -> str:
    if limit == "time" or taken.wanted.free_bytes is None:
        return f"where {taken.wanted.round_s:.2g} s are wanted"
    return f"where half of {data_size(taken.wanted.free_bytes)} is free for it"


def _other(other: Probed, settled: Settled) -> str:
    time = seconds(settled.steps * other.choice.step.seconds)
    return f"on {other.place} it would be {_part(other.choice.rate, other.choice.step)} and {time}"
