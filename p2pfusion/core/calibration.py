"""Calibrated training on skewed labels: a device whose data lack a class does not unlearn it for everybody.

A network trained on a device's own labels learns, besides what each class looks like, how frequent it is there;
averaged over devices with different frequencies that is mere noise, and worst for what few devices train. Adding the
logarithm of the own frequencies to the logits while training takes that part out: what is learnt then is the same
everywhere. In the end the model holds all classes equally likely, so this is for tasks whose classes are about equally
frequent over all devices together, and does nothing where every device has them alike. Where validation data say how
frequent classes really are, the logarithm of those frequencies is taken off again (`excess`): then the model holds
classes as likely as they are there, and nothing need be asked of the task.

Sources: logit adjustment (Menon et al., arXiv 2007.07314, its loss with tau = 1), balanced softmax (Ren et al., arXiv
2007.10740); in federated learning FedLC (Zhang et al., arXiv 2209.00189). Knows no model and no swarm.
"""

from __future__ import annotations

import itertools

import torch

from p2pfusion.core.data import Data
from p2pfusion.core.objectives import Loss
from p2pfusion.errors import TaskError

COUNTED_LABELS_MAX = 1 << 20
"""Labels that are counted: frequencies are known to a tenth of a percent long before."""
COUNTED_BATCHES_MAX = 1_000
"""Batches that are read of a stream, which may be slow or never end: 32,000 labels tell frequencies to half a percent.
Samples are read on: they end, and may lie sorted by class."""


ERRORS = 2.0
"""Standard errors of a frequency that count as chance and are taken off: of classes dealt alike, 95 % stay at 0."""


def excess(own: torch.Tensor, everywhere: torch.Tensor, classes: int) -> torch.Tensor | None:
    """Logarithm of how many times as frequent each class is among the own labels as everywhere, float32 (classes,).

    Labels are integers (samples,). Only what chance does not explain: few labels say little. None for labels that are
    no class numbers below `classes`, as those a loss leaves out.
    """
    counts = []
    for labels in (own, everywhere):
        if labels.dim() != 1 or labels.is_floating_point() or not len(labels):
            return None
        if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            return None
        counts.append(torch.bincount(labels, minlength=classes).double() + 1)  # one more each: none may be 0
    mine, all_ = counts
    shift = (mine / mine.sum()).log() - (all_ / all_.sum()).log()
    certain = (shift.abs() - ERRORS * (1 / mine + 1 / all_).sqrt()).clamp(min=0)
    return (certain * shift.sign()).float() if bool(certain.any()) else None


def log_frequencies(data: Data, classes: int) -> torch.Tensor:
    """Logarithm of each class's share of the labels of one pass, float32 (classes,); one is added to every count.

    Of a pass no more than `COUNTED_LABELS_MAX` labels are read, of a stream no more than `COUNTED_BATCHES_MAX` batches.

    Raises `TaskError` for labels that are not class numbers below `classes`.
    """
    counts = torch.ones(classes, dtype=torch.float64)
    counted = 0
    for _, y in itertools.islice(data.once(), COUNTED_BATCHES_MAX if data.samples is None else None):
        labels = y.reshape(-1)
        if labels.is_floating_point() or (labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes):
            raise TaskError(f"calibrate: labels must be class numbers below {classes}; leave calibrate out")
        counts += torch.bincount(labels, minlength=classes)
        counted += labels.numel()
        if counted >= COUNTED_LABELS_MAX:
            break
    return (counts / counts.sum()).log().float()


def calibrated(loss: Loss, shift: torch.Tensor) -> Loss:
    """The loss of logits (batch, classes, ...) to which `shift` (classes,) was added."""

    def shifted(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return loss(output + shift.to(output.device).view(1, -1, *([1] * (output.dim() - 2))), target)

    return shifted
