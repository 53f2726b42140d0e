"""What all trials of a run share: where things are, and the one loop that waits."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from uplab.hostside.children import Ledger
from uplab.hostside.cpuplan import CpuPlan
from uplab.hostside.errors import HostError
from uplab.hostside.far import Far
from uplab.hostside.leftovers import Leftovers
from uplab.hostside.loop import Loop
from uplab.hostside.rundir import Events
from uplab.hostside.spec import LoadAdapter, Plan
from uplab.hostside.store import Store


@dataclass
class Context:
    """What all trials of a run share: where things are, and the one loop that waits.

    ``kernel`` is the root below which the kernel's settings and counters are read, ``cpus`` who
    runs where on a tuned host, ``far`` the way to a second machine that loads, where there is one.
    """

    plan: Plan
    store: Store
    loop: Loop
    ledger: Ledger
    events: Events
    adapters: Path
    leftovers: Leftovers
    modules: dict[str, ModuleType] = field(default_factory=dict)
    kernel: Path = Path("/")
    cpus: CpuPlan | None = None
    far: Far | None = None

    def load_module(self, adapter: LoadAdapter) -> ModuleType:
        """The load's adapter.py, from the folder that travelled here; read once."""
        if adapter.name not in self.modules:
            path = self.adapters / "loads" / adapter.name / adapter.python
            spec = importlib.util.spec_from_file_location(f"uplab_load_{adapter.name}", path)
            if spec is None or spec.loader is None:
                raise HostError(f"load {adapter.name}: {path} is no Python file")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            self.modules[adapter.name] = module
        return self.modules[adapter.name]
