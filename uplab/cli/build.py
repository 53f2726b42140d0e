"""The tasks of the namespace ``build``: what the checkout itself is made with."""

import subprocess
import sys

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit

from uplab.cli.common import PROJECT_ROOT, command

ns = Collection("build")


@command(
    ns,
    name="lock",
    flags={"upgrade": "take the newest versions that the ranges in requirements/*.in allow"},
)
def remake_lock_files(c: Context, upgrade: bool = False) -> None:
    """Remake requirements/*.lock, with hashes, from *.in there."""
    from tools import lock

    for line in lock.remake(upgrade=upgrade):
        print(line, flush=True)


@command(ns, flags={"check": "write nothing; fail where a page is not what the code says"})
def reference(c: Context, check: bool = False) -> None:
    """Make the pages of docs/reference that come from the code."""
    argv = [sys.executable, "-m", "tools.reference", *(["--check"] if check else [])]
    done = subprocess.run(argv, cwd=PROJECT_ROOT, check=False)
    if done.returncode:
        raise Exit(code=done.returncode)


@command(ns, flags={"out": "folder for the site"})
def docs(c: Context, out: str = "build/docs") -> None:
    """Build docs/ as a site, offline; any warning fails.

    Needs the packages of requirements/dev.lock, which it installs.
    """
    from tools import checks, site

    checks.require_dev_packages()
    print(site.build(PROJECT_ROOT / out))
