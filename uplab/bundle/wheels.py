"""The wheels of the lock files, for the Python that runs uplab."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from uplab.box.steps import Steps
from uplab.bundle.index import LOCKS
from uplab.bundle.meter import left
from uplab.errors import HostError

_PIN = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*==", re.MULTILINE)
_SAVED = re.compile(r"^(?:Saved|File was already downloaded) (.+\.whl)$")


def fetch(
    project: Path, levels: Iterable[str], index: str, cache: Path, steps: Steps
) -> dict[str, list[Path]]:
    """Let pip download the wheels that the lock files name, by pip's own configuration.

    Args:
        project: the checkout.
        levels: ``runtime``, or ``runtime`` and ``dev``.
        index: a site's own index of packages; empty for those that pip is configured with.
        cache: where the wheels are kept; what lies there is not fetched again.
        steps: told what is going on.

    Returns:
        for each level its wheels, for the Python that runs this and no other.

    Raises:
        HostError: pip failed.
    """
    cache.mkdir(parents=True, exist_ok=True)
    return {level: _download(project / LOCKS[level], index, cache, steps) for level in levels}


def command(lock: Path, index: str, cache: Path) -> list[str]:
    """The argv that downloads what a lock file names, and nothing whose hash is not there."""
    argv = [sys.executable, "-I", "-m", "pip", "download", "--require-hashes", "--no-deps"]
    argv += ["--only-binary", ":all:", "--progress-bar", "off", "--no-input"]
    argv += ["--index-url", index] if index else []
    return [*argv, "--dest", str(cache), "--requirement", str(lock)]


def _download(lock: Path, index: str, cache: Path, steps: Steps) -> list[Path]:
    wanted = len(_PIN.findall(lock.read_text(encoding="utf-8")))
    process = subprocess.Popen(
        command(lock, index, cache),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    came: list[Path] = []
    began_s = time.monotonic()
    tail: deque[str] = deque(maxlen=4)
    try:
        for line in process.stdout or ():
            tail.append(line.strip())
            saved = _SAVED.match(line.strip())
            if saved:
                came.append(cache / Path(saved[1]).name)
            rest = left(began_s, len(came), wanted)
            steps.now(f"{lock.name}: {len(came)} of {wanted} packages{rest}")
        code = process.wait()
    finally:
        process.kill()
        process.wait()
    if code != 0:
        raise HostError(f"pip could not download what {lock.name} names: {' '.join(tail)}")
    return sorted(came)
