"""Give a run that was brought here its place among the results, then let its host forget it."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from uplab import checksums, fetchrun, joining
from uplab.detached import patiently
from uplab.errors import EXIT_USAGE, HostError, UplabError
from uplab.fields import Fields
from uplab.hostside.export import is_run_id
from uplab.hostside.rundir import PART_PREFIX
from uplab.remote import Host


def bring(host: Host, run_id: str, results: Path, told: Callable[[str], None]) -> Path:
    """Bring a run that has ended here, whole and checked; the host forgets it only then.

    Args:
        host: where it lies.
        run_id: its name.
        results: the folder of all runs.
        told: is called with a line for the user where the transfer breaks and goes on.

    Returns:
        the run directory.

    Raises:
        HostError: it cannot be brought; what arrived is kept, and so is all that the host has.
        UplabError: the host refuses, with its reason.
    """
    require_run_id(host, run_id)
    final = results / run_id
    with _alone(results, run_id):
        try:
            part = fetchrun.fetch(host, run_id, results, told)
        except UplabError as error:
            if error.exit_code == EXIT_USAGE and final.exists():
                # The host has forgotten it: it was brought here by somebody else, or before.
                return final
            raise
        if final.exists():
            _require_same_host(host, final)
            _join(part, final)
        else:
            # Before the host forgets it: a power cut must not cost what is nowhere else any more.
            os.sync()
            part.rename(final)
        patiently(lambda: host.ask("forget-run", {"run_id": run_id}), told)
    return final


def require_run_id(host: Host, name: str) -> None:
    """Raise HostError for what cannot be a run: some hosts could name a folder elsewhere."""
    if not is_run_id(name):
        raise HostError(f"host {host.name}: {name[:200]!r} is not the name of a run")


def _require_same_host(host: Host, final: Path) -> None:
    """Raise HostError for a run of another host: none adds to what a different one measured."""
    try:
        owner = Fields.of_file(final / "run.json", final).text("host")
    except UplabError as error:
        raise HostError(f"{final} is here already: {error.message}") from error
    if owner != host.name:
        raise HostError(
            f"{final} is here already, measured on {owner}, and host {host.name} has a run of the "
            "same name. Move one of them away"
        )


@contextmanager
def _alone(results: Path, run_id: str) -> Iterator[None]:
    """Nobody else brings this run here meanwhile; who comes second waits."""
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{PART_PREFIX}lock-{run_id}"
    while True:
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(file.fileno(), path):
                # Who held it before us has removed it.
                continue
            try:
                yield
            finally:
                path.unlink()
        return


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _join(part: Path, final: Path) -> None:
    """What arrived belongs to a run that is here: it is the same again, or a later part of it."""
    sums = part / checksums.SUMS_FILE
    if sums.exists() and sums.read_bytes() == (final / checksums.SUMS_FILE).read_bytes():
        shutil.rmtree(part)
        return
    joining.join(part, final)
