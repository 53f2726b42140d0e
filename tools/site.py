"""Builds the documentation as a site: ``./invoke build.docs``. Needs Sphinx, a dev package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from uplab.errors import GateError

ROOT = Path(__file__).resolve().parents[1]


def build(out: Path, root: Path = ROOT) -> Path:
    """Build the site; out: its first page.

    Nothing is fetched, and nothing of it refers to elsewhere but links that a reader may follow.
    Raises GateError with what Sphinx complained about.
    """
    argv = [sys.executable, "-m", "sphinx", "--builder", "html", "--fail-on-warning", "--nitpicky"]
    argv += ["--quiet", "--fresh-env", "--conf-dir", str(root / "docs")]
    argv += ["--doctree-dir", str(out / ".doctrees"), str(root / "docs"), str(out)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=root)
    if done.returncode:
        raise GateError(f"the documentation cannot be built:\n{done.stderr.strip()}")
    return out / "index.html"
