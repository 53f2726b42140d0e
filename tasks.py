"""The tasks of uplab, for ``./invoke`` and for a plain ``invoke``: it only wires the namespaces."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from invoke.collection import Collection

ROOT = Path(__file__).resolve().parent
# The requirements by the names they are imported by (requirements/runtime.in).
NEEDED = ("ansible", "fabric", "jinja2", "mitogen", "numpy", "pydantic", "rich", "scipy", "yaml")


def refuse_foreign_python() -> None:
    """End with one line and code 2 under a Python that lacks what uplab needs.

    A system-wide Invoke finds this file like any other; it may be an old one, so this much of the
    file is kept readable for every Python 3.
    """
    if sys.version_info < (3, 11) or any(find_spec(name) is None for name in NEEDED):
        sys.stderr.write(
            "invoke: {} does not have what uplab needs. Run: {}/invoke {}"
            "   (or first: . {}/.venv/bin/activate)\n".format(
                sys.executable, ROOT, " ".join(sys.argv[1:]) or "--list", ROOT
            )
        )
        raise SystemExit(2)


def wire() -> "Collection":
    """Out: the collection of all tasks, named ``lab.setup``, ``bench.all``, ``test`` and so on."""
    sys.path.insert(0, str(ROOT))
    from invoke.collection import Collection

    from uplab.cli import artifact, bench, build, lab, testing

    return Collection(*testing.ns.tasks.values(), lab.ns, build.ns, bench.ns, artifact.ns)


refuse_foreign_python()
ns = wire()

if __name__ == "__main__":
    from uplab.cli import program

    program.run(ns)
