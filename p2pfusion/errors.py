"""Every exception this package raises, in one tree, with the blame in the type.

`LocalError` is our own side's mistake: a wrong argument, a task that cannot be sliced, a full disk. It is raised to the
caller, and the command line turns it into one line and an exit status. `RemoteError` is another peer's fault or the
network's: it never leaves `node`, which counts it, turns it into suspicion and carries on.

This module knows no other module of the package.
"""

from __future__ import annotations


class P2PFusionError(Exception):
    """Root of the tree. `exit_status` is what the command line ends with (PROTOCOL.md 11)."""

    exit_status = 1


class LocalError(P2PFusionError):
    """Our own side did something it may not do."""


class UsageError(LocalError):
    """A wrong argument or option."""

    exit_status = 2


class TaskError(LocalError):
    """A task file, model, data set or configuration that cannot be used; the text names the fix."""

    exit_status = 3


class ConfigError(TaskError):
    """A configuration value out of range; the text names the field and the allowed range."""


class TooFewPeers(LocalError):
    """Fewer than `min_peers` were met within `wait_s`."""

    exit_status = 4


class Refused(LocalError):
    """The swarm refused us: another version, model or setting. The text carries the first difference."""

    exit_status = 5


class PortError(LocalError):
    """The port is taken or the interface does not exist."""

    exit_status = 6


class TrainingError(LocalError):
    """Local training raised or produced numbers that are not finite."""

    exit_status = 7


class StoreError(LocalError):
    """A file of the state folder cannot be read or written."""

    exit_status = 3


class Unfinished(LocalError):
    """A simulated run was not over when its virtual time was; the text says which limit that was and why."""


class InvariantViolation(P2PFusionError):
    """A simulated swarm did what it never may: a fault of ours. The text names node, round and virtual time."""


class RemoteError(P2PFusionError):
    """Another peer or the network is to blame; never fatal for a node."""


class WireError(RemoteError):
    """Bytes from outside that do not decode to exactly one valid message within the limits."""


class Unreachable(RemoteError):
    """Nobody answers at that address."""


class DeadlineExceeded(RemoteError):
    """The answer did not come within the caller's deadline."""
