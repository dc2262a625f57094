"""Makes `namespaces.py` beside this file available to the end-to-end tests, whatever the import mode."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"p2pfusion_e2e_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def namespaces() -> ModuleType:
    """The module `namespaces`: `with namespaces.lan(3) as lan: ...`."""
    return _load("namespaces")
