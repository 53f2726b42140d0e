"""Loads the adapter by its path, as hostside does, and knows where the captured texts are."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]
DATA = ROOT / "tests/data/wrk"


@pytest.fixture(scope="session")
def wrk() -> ModuleType:
    spec = importlib.util.spec_from_file_location("wrk_adapter", ROOT / "loads/wrk/adapter.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def data() -> Path:
    return DATA
