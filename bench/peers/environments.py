"""Which environments do the peers need? One virtual environment each, below `.bench/`, with every version pinned.

    python -m bench.peers.environments [hivemind] [flower] [p2pfl]

Makes what is missing and prints one line of JSON per environment: where it is and what is in it. It needs a package
index, about 5 GB of disk and some minutes; a second call does nothing. p2pfl is under the GPL: it is installed and
started as a separate program, never imported by ours.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".bench"
TORCH = "torch==2.13.0"
INSTALL_S_MAX = 1800
"""One pip run; the largest (ray, torch) take minutes on a slow disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What pip is asked for, in steps; `shown` are the distributions whose versions belong into every result."""

    name: str
    steps: tuple[tuple[str, ...], ...]
    shown: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return HOME / self.name

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def _mark(self) -> Path:
        return self.folder / ".ready"

    @property
    def is_ready(self) -> bool:
        """True when exactly these steps were installed."""
        return self._mark.exists() and self._mark.read_text() == json.dumps(self.steps)

    def make(self) -> None:
        """Create and install. Raises `CalledProcessError`, `TimeoutExpired`."""
        if self.is_ready:
            return
        venv.create(self.folder, with_pip=True, clear=True)
        for step in self.steps:
            command = [str(self.python), "-m", "pip", "install", "--quiet", *step]
            subprocess.run(command, check=True, timeout=INSTALL_S_MAX, stdout=sys.stderr)
        self._mark.write_text(json.dumps(self.steps))

    def versions(self) -> dict[str, str]:
        """Installed versions of `shown`, and of Python."""
        code = (
            "import json, platform, sys; from importlib.metadata import version; "
            "print(json.dumps({'python': platform.python_version(), **{name: version(name) for name in sys.argv[1:]}}))"
        )
        done = subprocess.run(
            [str(self.python), "-c", code, *self.shown], check=True, timeout=60, capture_output=True, text=True
        )
        return dict(json.loads(done.stdout))


# torch first and pinned, so that hivemind brings no larger build of its own (TORCH_ARGUMENTS as in the Makefile).
TORCH_STEP = (*os.environ.get("TORCH_ARGUMENTS", "").split(), TORCH)
ENVIRONMENTS = {
    environment.name: environment
    for environment in (
        # numpy below 2.3: with newer ones hivemind's 8-bit codecs fail in silence and nothing is averaged.
        Environment(
            name="hivemind",
            steps=(TORCH_STEP, ("hivemind==1.1.12", "numpy==2.2.6", "bitsandbytes==0.50.2", TORCH)),
            shown=("hivemind", "torch", "numpy", "bitsandbytes"),
        ),
        Environment(
            name="flower", steps=(("flwr[simulation]==1.41.0",),), shown=("flwr", "ray", "numpy", "grpcio", "protobuf")
        ),
        # What p2pfl 0.4.4 imports but does not ask for, or asks for too loosely.
        Environment(
            name="p2pfl",
            steps=(("p2pfl==0.4.4", "pyarrow==18.1.0", "opendp==0.16.0", "huggingface_hub==0.29.3"),),
            shown=("p2pfl", "numpy", "grpcio", "protobuf", "pyarrow"),
        ),
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(ENVIRONMENTS)}; all")
    for name in parser.parse_args().names or ENVIRONMENTS:
        environment = ENVIRONMENTS[name]
        environment.make()
        print(
            json.dumps(
                {"environment": name, "folder": str(environment.folder.relative_to(ROOT))} | environment.versions()
            )
        )


if __name__ == "__main__":
    main()
