"""The crates of a component, as cargo itself vendors them from the project's lock file."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uplab.bundle.index import Refused
from uplab.errors import HostError, UsageError


def part_path(component: str) -> str:
    """Where the crates of a component lie in a bundle: a tar, because a crate has many files."""
    return f"crates/{component}.tar"


def vendor(
    component: str, manifest: Path, mirrors: Mapping[str, Any], work: Path, out: Path
) -> None:
    """Let cargo bring the crates of a project, checked against its lock file.

    Args:
        component: that they are for.
        manifest: the folder of the project's ``Cargo.toml``.
        mirrors: ``uplab_mirrors``; its ``crates`` is a registry, or a directory on this machine.
        work: where cargo puts them; removed afterwards.
        out: the tar to write.

    Raises:
        UsageError: there is no cargo here.
        HostError: it failed.
    """
    folder = work / f"crates-{component}"
    # Mostly there is none; what cannot be removed is in the way of the next step, which says so.
    shutil.rmtree(folder, ignore_errors=True)
    _choose_source(manifest, str(mirrors.get("crates", "")))
    argv = ["cargo", "vendor", "--locked", "--versioned-dirs", "--respect-source-config", "--quiet"]
    try:
        done = subprocess.run(
            [*argv, str(folder)],
            cwd=manifest,
            env={**os.environ, "CARGO_TERM_COLOR": "never"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise UsageError(
            f"no cargo here, which brings the crates of {component}. Run: apt-get install cargo, "
            "or leave the component out of --components"
        ) from None
    if done.returncode != 0:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise HostError(f"{component}: cargo could not bring its crates: {'; '.join(said[-3:])}")
    # A project that needs none gets an empty folder, which cargo takes for a source as well.
    folder.mkdir(exist_ok=True)
    pack(folder, out)
    shutil.rmtree(folder)


def _choose_source(manifest: Path, source: str) -> None:
    """Tell cargo of a site's own crates, as the role does on a host."""
    if not source:
        return
    kind = "directory" if source.startswith("/") else "registry"
    config = manifest / ".cargo" / "config.toml"
    config.parent.mkdir(exist_ok=True)
    config.write_text(
        f'[source.crates-io]\nreplace-with = "site"\n\n[source.site]\n{kind} = "{source}"\n'
    )


def pack(folder: Path, out: Path) -> None:
    """A tar of a folder's files that depends on their names, contents and executable bits alone."""
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    out.parent.mkdir(parents=True, exist_ok=True)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    try:
        with tarfile.open(part, "w") as tar:
            for path in files:
                member = tarfile.TarInfo(path.relative_to(folder).as_posix())
                member.size = path.stat().st_size
                member.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
                with path.open("rb") as content:
                    tar.addfile(member, content)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


def require_plain(path: Path, name: str) -> None:
    """See that a tar of crates holds plain files that stay below where it is unpacked.

    Raises:
        Refused: it holds something else.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                place = Path(member.name)
                if not member.isreg() or place.is_absolute() or ".." in place.parts:
                    raise Refused(f"{name} in it holds {member.name!r}: no plain file below it")
    except tarfile.TarError as error:
        raise Refused(f"{name} in it is no tar archive ({error})") from error
