"""Algorithms by name: data, one row each. No other module compares algorithm names.

A row says how the task's network becomes the model of the run, how slices are chosen and trained, and which networks
the model holds in the end. `Seat.rates` carries the slice rates. Sources: MSfusion (arXiv 2407.03622), HeteroFL (ICLR
2021), FedRolex (NeurIPS 2022), Federated Dropout, FjORD (arXiv 2102.13451); PAPERS.md says what is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from p2pfusion.algorithms import co_s2p, windows
from p2pfusion.algorithms.base import width_name
from p2pfusion.algorithms.choices import chosen
from p2pfusion.algorithms.sliced import Sliced, Way
from p2pfusion.config import COMMON_RATE_DEFAULT, CadenceConfig
from p2pfusion.core import schemes
from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.contrastive import Contrastive
from p2pfusion.core.ensemble import ensemble, rotating
from p2pfusion.core.genesis import genesis
from p2pfusion.core.nested import Nested, prefix, widest
from p2pfusion.core.projection import PROJECTION, with_projection
from p2pfusion.core.submodel import Vector
from p2pfusion.core.task import Prepared
from p2pfusion.errors import TaskError, UsageError

MEMBERS = 2
"""Networks of an ensemble: more would see each device less often and learn slower (docs/schemes.md)."""
DISTILL = 1.0
"""Weight of what the narrowest width teaches the wider ones."""

SEMI_ASYNCHRONOUS = CadenceConfig(quorum=0.5, grace_s=1.0, grace_share=0.25, deadline_share=3.0)
"""Co-S2P's rule (PAPERS.md 2.6): half of the others, a grace of a quarter of a round and at least 1 s, three rounds."""

NOTHING_TO_CHOOSE = "algorithm {!r} has nothing to choose: write no more than its name"
AUTO = "auto"
"""The name of the choice that `fitting` makes."""

Reach = Literal["all", "ring", "none"]
"""With whom a node averages: with everybody, so that there is one model; with its neighbours; with nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What everybody in a run agrees on besides the task.

    `common_rate`: the width that all devices can train. `outer_momentum`: see `sliced.Way`.
    """

    common_rate: float = COMMON_RATE_DEFAULT
    outer_momentum: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.outer_momentum < 1:
            raise UsageError(f"outer momentum {self.outer_momentum!r}: must be at least 0 and below 1")
        if not 0 < self.common_rate <= 1:
            raise UsageError(f"common rate {self.common_rate!r}: must be above 0 and at most 1")


WayOf = Callable[[Blueprint, Terms], Way]
"""How a node works in a run of that blueprint and those terms."""
Choosing = Callable[[str, Mapping[str, str]], WayOf]
"""The way of a node of the algorithm of that name that chose these values of these options."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One row: how a node of it works in a run of that blueprint and those terms, and a line for people."""

    text: str
    way: WayOf
    model: Callable[[Blueprint, Terms], Blueprint] | None = None
    """The run's model, where it is another than the task's."""
    reach: Reach = "all"
    cadence: CadenceConfig = field(default_factory=CadenceConfig)
    """When its rounds are ready, where the owner of a node says nothing else."""
    choosing: Choosing | None = None
    """The way of a node that does some of it otherwise, by option and value; None: nothing of it can be chosen."""


def ladder(common_rate: float) -> tuple[float, ...]:
    """The nested widths of a run: the common one, doubled until the whole."""
    rates = [common_rate]
    while 2 * rates[-1] < 1:
        rates.append(2 * rates[-1])
    return (*rates, 1.0) if rates[-1] < 1 else tuple(rates)


def plain(scheme: Callable[[], schemes.Scheme]) -> WayOf:
    """Slices of that scheme, trained with the owner's loss and nothing else."""
    return lambda blueprint, terms: Way(scheme=scheme())


def msfusion(scheme: Callable[[], schemes.Scheme]) -> WayOf:
    """Slices of that scheme, trained with the contrastive term."""
    return lambda blueprint, terms: Way(scheme=scheme(), objective=Contrastive(), aside=(PROJECTION,))


def _projected(blueprint: Blueprint, terms: Terms) -> Blueprint:
    return with_projection(blueprint)


def _nested(blueprint: Blueprint, terms: Terms) -> Way:
    rates = ladder(terms.common_rate)
    widths = {width_name(rate): prefix(blueprint, rate) for rate in rates}
    return Way(scheme=widest(rates), objective=Nested(rates, DISTILL), widths=widths)


def _co_s2p(name: str, options: Mapping[str, str]) -> WayOf:
    choice = chosen(name, co_s2p.Choice, options)
    return lambda blueprint, terms: co_s2p.way(blueprint, choice)


def _shifting(kind: Callable[[Callable[[], schemes.Scheme]], WayOf]) -> Choosing:
    def choosing(name: str, options: Mapping[str, str]) -> WayOf:
        choice = chosen(name, windows.Shift, options)
        return kind(lambda: windows.shifted(choice))

    return choosing


def _drawing(scheme: Callable[[], schemes.Scheme]) -> Choosing:
    def choosing(name: str, options: Mapping[str, str]) -> WayOf:
        choice = chosen(name, windows.Draw, options)
        return plain(lambda: windows.drawn(scheme(), choice))

    return choosing


def _small(blueprint: Blueprint, terms: Terms) -> Blueprint:
    return blueprint.narrow(terms.common_rate)


def members(count: int) -> Preset:
    """So many networks of the common width, trained by turns."""

    def model(blueprint: Blueprint, terms: Terms) -> Blueprint:
        if not blueprint.axes:
            raise TaskError("members: nothing of this network can be made narrower; choose --algorithm full")
        return ensemble(blueprint.narrow(terms.common_rate), count)

    def way(blueprint: Blueprint, terms: Terms) -> Way:
        whole, one = blueprint.whole(), blueprint.members[0]
        widths = {f"1 of {count}": replace(whole, blocks=one), f"{count} of {count}": whole}
        return Way(scheme=rotating(terms.common_rate), widths=widths)

    return Preset(text="small networks trained by turns, which answer together", way=way, model=model)


_FULL = plain(schemes.full)

PRESETS: Mapping[str, Preset] = {
    "nested": Preset(
        text="in every step a width up to the device's own (FjORD); the narrowest teaches the wider", way=_nested
    ),
    "members": members(MEMBERS),
    "msfusion": Preset(
        text="double-shifting slices with a contrastive term (MSfusion)",
        way=msfusion(schemes.double_shift),
        model=_projected,
        choosing=_shifting(msfusion),
    ),
    "co_s2p": Preset(
        text="shallow and narrow slices of a network with exits, which learn from its deepest (Co-S2P)",
        way=_co_s2p("co_s2p", {}),
        cadence=SEMI_ASYNCHRONOUS,
        choosing=_co_s2p,
    ),
    "double_shift": Preset(
        text="double-shifting slices and nothing else",
        way=plain(schemes.double_shift),
        choosing=_shifting(plain),
    ),
    "heterofl": Preset(
        text="always the first channels (HeteroFL)",
        way=plain(schemes.static),
        choosing=_drawing(schemes.static),
    ),
    "fedrolex": Preset(
        text="one window for all that rolls (FedRolex)",
        way=plain(schemes.rolling),
        choosing=_drawing(schemes.rolling),
    ),
    "random_dropout": Preset(text="fresh random channels (Federated Dropout)", way=plain(schemes.random_dropout)),
    "small": Preset(text="everybody trains the small model", way=_FULL, model=_small),
    "full": Preset(text="everybody trains the whole model (FedAvg without a server)", way=_FULL),
    "ring": Preset(
        text="MSfusion, averaged with two neighbours only",
        way=msfusion(schemes.double_shift),
        model=_projected,
        reach="ring",
    ),
    "dpsgd": Preset(text="the whole model, averaged with two neighbours only (D-PSGD)", way=_FULL, reach="ring"),
    "alone": Preset(text="the whole model on one's own data only", way=_FULL, reach="none"),
}

CHAINS: Mapping[str, str] = {"mp_sl": "the network in pieces across a chain of devices, none of which holds it (MP-SL)"}
"""What no single node runs: `hops` does. A line for people each."""


def is_chained(name: str) -> bool:
    """Whether devices train the network in pieces."""
    return name in CHAINS


def algorithm(name: str, prepared: Prepared, *, seed: int = 0, terms: Terms | None = None) -> Sliced:
    """The algorithm of that name as a node of a swarm runs it. Raises what `live` raises, and `TaskError`."""
    terms, name = terms or Terms(), fitting(prepared) if name == AUTO else name
    origin = {"algorithm": name, "common_rate": f"{terms.common_rate:g}", "outer_momentum": f"{terms.outer_momentum:g}"}
    return made(live(name), prepared, terms, seed, origin)


def fitting(prepared: Prepared) -> str:
    """What `auto` is for this task: `members`; `nested` where the network has weights that must be kept; `full` where
    nothing of it can be made narrower.
    """
    if not prepared.blueprint.axes:
        return "full"
    return "nested" if prepared.is_given else "members"


def cadence_of(name: str) -> CadenceConfig:
    """What the row recommends; for `auto` what every row of it does, the default. Raises what `live` raises."""
    return CadenceConfig() if name == AUTO else live(name).cadence


def check_live(name: str) -> None:
    """Raise `UsageError` for what no swarm can run, before anything is prepared."""
    if name != AUTO and not is_chained(name):
        live(name)


def live(name: str) -> Preset:
    """The preset of that name, for a swarm, with what is chosen of it: `co_s2p:transfer=swarm:sum=plain`.

    Raises `UsageError` naming what there is.
    """
    name, *options = name.split(":")
    known = ", ".join([AUTO, *(name for name, preset in PRESETS.items() if preset.reach == "all")])
    if options and (name == AUTO or is_chained(name)):
        raise UsageError(NOTHING_TO_CHOOSE.format(name))
    if is_chained(name):
        raise UsageError(
            f"algorithm {name!r} trains the network in pieces: `p2pfusion join` and `plan` know it, no more"
        )
    if name not in PRESETS:
        raise UsageError(f"unknown algorithm {name!r}: choose one of {known}")
    if PRESETS[name].reach != "all":
        raise UsageError(
            f"algorithm {name!r} keeps a model on every node, a swarm has one: it runs in p2pfusion.lab.rounds only; "
            f"choose one of {known}"
        )
    return _with_options(name, options) if options else PRESETS[name]


def _with_options(name: str, options: Sequence[str]) -> Preset:
    pairs = [option.partition("=")[::2] for option in options]
    given, choosing = dict(pairs), PRESETS[name].choosing
    if choosing is None:
        raise UsageError(NOTHING_TO_CHOOSE.format(name))
    if len(given) < len(pairs) or not all(all(pair) for pair in pairs):
        raise UsageError(f"algorithm {name!r}: each choice once, as option=value, with a colon between two")
    return replace(PRESETS[name], way=choosing(name, given))


def made(
    preset: Preset, prepared: Prepared, terms: Terms, seed: int = 0, origin: Mapping[str, str] | None = None
) -> Sliced:
    """The algorithm of a row, whatever its reach. Raises `TaskError` for a task whose model it cannot use."""
    if preset.model is not None:
        model = preset.model(prepared.blueprint, terms)
        prepared = replace(prepared, blueprint=model, genesis=_carried(prepared, model))
    way = replace(preset.way(prepared.blueprint, terms), outer_momentum=terms.outer_momentum)
    return Sliced(prepared, way, seed=seed, origin=origin)


def _carried(prepared: Prepared, model: Blueprint) -> Vector:
    """The start of another model of the task: parameters that are as they were keep their values, others are drawn."""
    start = genesis(model, prepared.seed)
    before = {(item.name, prepared.blueprint.shape(item)) for item in prepared.blueprint.parameters}
    kept = [item.name for item in model.parameters if (item.name, model.shape(item)) in before]
    if prepared.is_given and len(kept) < len(before):
        raise TaskError(
            "init = 'given': this algorithm trains other networks than the task's; choose one that trains its own, "
            "such as --algorithm full, nested or msfusion, or init='seed'"
        )
    for name in kept:
        start[model.parameter_slices[name]] = prepared.genesis[prepared.blueprint.parameter_slices[name]]
    return start
