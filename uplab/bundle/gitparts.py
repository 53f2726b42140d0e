"""A repository at one commit as one file, and back.

The part is a pack of exactly the objects of that commit, without the history before it. A pack
proves itself: git computes each object's id from its content, so a pack that holds the pinned
commit and all that it reaches holds what was pinned. The way back is therefore done by git on the
controller, which always has it; a host has no git yet when its cache is filled.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from uplab.bundle.index import Part, Refused
from uplab.bundle.sources import Repository
from uplab.errors import HostError

#: The same objects give the same pack: nothing of how the clone had packed them, one thread.
_PACK = (
    *("-c", "pack.threads=1", "-c", "core.compression=6", "-c", "pack.writeReverseIndex=false"),
    *("pack-objects", "-q", "--stdout", "--no-reuse-delta", "--no-reuse-object"),
    *("--delta-base-offset", "--window=10", "--depth=50"),
)
_CONFIG = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n"


def path_of(repository: Repository) -> str:
    """Where a repository's pack lies in a bundle; its folder is named as on a host."""
    return f"git/{repository.clone.name}/{repository.commit}.pack"


def pack(repository: Repository, target: Path) -> None:
    """Write the pack of a commit.

    Raises:
        HostError: git failed.
    """
    commit = repository.commit
    listed = _git(["rev-list", "--objects", "--max-count=1", commit], repository.clone)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(_git(list(_PACK), repository.clone, listed))
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def restore(part: Part, packed: Path, into: Path) -> None:
    """Make a bare repository that holds a part's commit; one that is there gets it, too.

    Args:
        part: of kind git.
        packed: its pack.
        into: the folder of the repositories.

    Raises:
        Refused: it does not hold that commit whole.
    """
    commit = part.facts["commit"]
    repository = into / Path(part.path).parent.name
    for name in ("objects/pack", "objects/info", "refs/heads"):
        (repository / name).mkdir(parents=True, exist_ok=True)
    (repository / "HEAD").write_text("ref: refs/heads/master\n")
    (repository / "config").write_text(_CONFIG)
    pack_file = repository / "objects" / "pack" / f"pack-{commit}.pack"
    pack_file.write_bytes(packed.read_bytes())
    # The history before it is not there, and git shall not miss it.
    shallow = repository / "shallow"
    known = shallow.read_text().split() if shallow.exists() else []
    shallow.write_text("".join(f"{line}\n" for line in sorted({*known, commit})))
    try:
        index = ["index-pack", "--no-rev-index", str(pack_file)]
        _git(index, repository)
        (repository / "refs" / "heads" / f"uplab-{commit}").write_text(f"{commit}\n")
        _git(["cat-file", "-e", f"{commit}^{{commit}}"], repository)
        _git(["rev-list", "--objects", "--quiet", "--max-count=1", commit], repository)
    except HostError as error:
        raise Refused(f"{part.path} does not hold the commit {commit} whole ({error})") from error


def sha256(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _git(arguments: list[str], repository: Path, given: bytes = b"") -> bytes:
    """What git prints in a bare repository; HostError with its last words where it fails."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    try:
        done = subprocess.run(
            ["git", f"--git-dir={repository}", *arguments],
            env={**environment, "LC_ALL": "C.UTF-8"},
            input=given,
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        raise HostError("no git here. Run: apt-get install git") from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise HostError(f"git {arguments[0]}: {' '.join(said[-1:]) or done.returncode}")
    return done.stdout
