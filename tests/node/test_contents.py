"""What a checkpoint says of its networks comes back as it was, and cuts out exactly the values of each."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.algorithms.base import Evaluation, Product
from p2pfusion.core.blueprint import Axis, Blueprint, Dim, Init, Parameter
from p2pfusion.core.submodel import SubModel, extract
from p2pfusion.node.contents import Contents, Listed, Measured, pack, taken, unpack
from p2pfusion.node.resuming import named


def no_network(spec: object) -> None:
    raise AssertionError("nobody builds this network")


HIDDEN, FLAT = Dim("hidden"), Dim("hidden", 3)
BLUEPRINT = Blueprint(
    blocks=("body", "head"),
    axes=(Axis("hidden", 8, 2),),
    parameters=(
        Parameter("body.weight", "body", (HIDDEN, Dim(None, 4)), Init(None)),
        Parameter("body.scale", "body", (), Init(None)),
        Parameter("head.weight", "head", (Dim(None, 2), FLAT), Init(None)),
    ),
    factory=no_network,  # type: ignore[arg-type]
)
MODEL = np.arange(BLUEPRINT.size, dtype=np.float32)


@given(st.sets(st.integers(0, 3), min_size=1), st.sampled_from([("body",), ("head",), ("body", "head")]))
def test_a_network_is_cut_out_as_a_sub_model_is(units: set[int], blocks: tuple[str, ...]) -> None:
    network = SubModel.of(BLUEPRINT, {"hidden": [(2 * unit, 2 * unit + 2) for unit in sorted(units)]}, blocks)
    listed = unpack(pack(BLUEPRINT, Contents(Product({"some": network}))))
    found = taken(named(BLUEPRINT, MODEL), listed.networks["some"].cuts)
    assert all(name.split(".")[0] in blocks for name in found)
    flat = np.concatenate([values.reshape(-1) for values in found.values()])
    assert flat.tobytes() == extract(BLUEPRINT, MODEL, network).tobytes()


def test_what_was_said_comes_back() -> None:
    whole, body = BLUEPRINT.whole(), SubModel(("body",))
    product = Product({"half": body, "all": whole}, {"algorithm": "magic"})
    listed = unpack(pack(BLUEPRINT, Contents(product, Measured(Evaluation.of({"half": 0.5, "all": 0.75}), 7))))
    assert (listed.served, listed.accuracy, listed.round) == ("all", 0.75, 7)
    assert listed.origin == {"algorithm": "magic"}
    assert {name: one.accuracy for name, one in listed.networks.items()} == {"half": 0.5, "all": 0.75}
    one = unpack(pack(BLUEPRINT, Contents(Product({"all": whole}), Measured(Evaluation(0.25), 2))))
    assert (one.networks["all"].accuracy, one.served) == (0.25, None)
    assert unpack(pack(BLUEPRINT, Contents(Product()))) == Listed()
    assert unpack(None) == Listed()


def test_unmeasured_the_narrowest_width_but_all_networks_side_by_side() -> None:
    whole, body = BLUEPRINT.whole(), SubModel(("body",))
    narrow = SubModel.of(BLUEPRINT, {"hidden": [(0, 2)]})
    products = Product(), Product({"25%": narrow, "100%": whole}), Product({"1 of 2": body, "2 of 2": whole})
    fallbacks = [None, "25%", "2 of 2"]
    assert [product.fallback for product in products] == fallbacks
    assert [unpack(pack(BLUEPRINT, Contents(product))).fallback for product in products] == fallbacks


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b'{"networks":3}'])
def test_anything_else_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="no list of networks"):
        unpack(np.frombuffer(data, np.uint8))


@pytest.mark.parametrize("ranges", [[[(0, 9)], [(0, 4)]], [[(0, 2)]], [[(3, 3)], [(0, 4)]], [[(-1, 2)], [(0, 4)]]])
def test_cuts_beyond_the_model_are_refused(ranges: list[list[tuple[int, int]]]) -> None:
    with pytest.raises(ValueError, match="not within"):
        taken(named(BLUEPRINT, MODEL), {"body.weight": ranges})
    with pytest.raises(ValueError, match="the model has not"):
        taken(named(BLUEPRINT, MODEL), {"tail.weight": ranges})


def test_of_equals_the_narrowest_is_served() -> None:
    assert Evaluation.of({"25%": 0.5, "50%": 0.5, "100%": 0.4}).served == "25%"
    with pytest.raises(ValueError, match="empty"):
        Evaluation.of({})
