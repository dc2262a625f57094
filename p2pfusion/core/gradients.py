"""A gradient that is given goes back through a network, without what torch loads to look at it.

That is sympy: 35 MB of memory and a second, at the start of every device of a chain. Held against torch's own in the
tests.
"""

from __future__ import annotations

import torch


def backward(output: torch.Tensor, gradient: torch.Tensor) -> None:
    """`output.backward(gradient)`, bit for bit: what is given there is looked at with sympy, a sum is not.

    The derivative of sum(output * gradient) by the output is 1.0 * gradient.
    """
    (output * gradient).sum().backward()  # type: ignore[no-untyped-call]
