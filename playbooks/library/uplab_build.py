#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: build a component of uplab and put it into the store, whole or not at all."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import io
import lzma
import os
import shlex
import shutil
import signal
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.uplab_host import (
    RECIPE_OPTIONS,
    SCHEMA,
    Place,
    Probe,
    StoreError,
    absolute_root,
    artifact,
    clean_environment,
    expand,
    link_atomically,
    pretty,
    probe,
    reason,
    sync_directory,
    utc_now,
    write_atomically,
)
from ansible.module_utils.uplab_sources import SITE_OPTIONS, Fetcher

DOCUMENTATION = r"""
---
module: uplab_build
short_description: Build a component from its sources into uplab's store
version_added: "0.1.0"
description:
  - Unpacks or fetches the sources beside the store, runs the recipe's commands there, moves the
    finished prefix into the store by one rename, writes its record and points C(current) to it.
  - Sources from elsewhere are repositories of git at a full commit and archives with a sha256.
    They are kept in C(cache) below O(root), so that building again needs no network.
  - A build that fails, is killed or runs into a full disk leaves no record, and a build without a
    record does not count as finished. What a killed build left is removed by the next one.
  - The output of the commands is kept in C(log/<component>.log) below O(root).
  - One build of a component at a time; the lock is held by the compilers too, so that it lasts as
    long as anything writes there.
options:
  root:
    description: The root of everything that uplab keeps on the host; an absolute path.
    type: path
    required: true
  component:
    description: The component's name.
    type: str
    required: true
  source_sha256:
    description: The digest of the controller's sources, from the lookup C(uplab_source).
    type: str
  archive:
    description: Those sources, from the lookup C(uplab_source) with C(want='archive').
    type: str
  site:
    description: What this site decides and the build does not depend on.
    type: dict
    default: {}
    suboptions:
      git:
        description: Prefixes of repositories' addresses, and what to fetch from instead.
        type: dict
        default: {}
      archives:
        description: Where all archives lie under their own names; otherwise each at its address.
        type: str
      files:
        description: Files to write before the commands run, by path; their contents.
        type: dict
        default: {}
  recipe:
    description:
      - How the component is built. The component's hash covers all of it as it is written, so
        changing the recipe gives a new build.
      - Texts may hold V({source}), V({build}), V({prefix}) and V({home}) for the directories of
        this build, V({root}) for O(root), V({cache}) for the directory of caches and V({jobs}) for
        the number of compilers that processors and free memory allow at once.
    type: dict
    required: true
    suboptions:
      version:
        description: The component's version, for its record.
        type: str
        required: true
      commands:
        description: The commands, one after the other; never through a shell.
        type: list
        elements: dict
        required: true
        suboptions:
          argv:
            description: The command and its arguments.
            type: list
            elements: str
            required: true
          chdir:
            description: Where it runs.
            type: str
            default: "{source}"
      environment:
        description: Variables beside a fixed V(PATH), V(HOME), V(LC_ALL) and V(TZ).
        type: dict
        default: {}
      artifacts:
        description: Files below the prefix that a build must give.
        type: list
        elements: str
        required: true
      tools:
        description: Commands whose output names the versions of the toolchain.
        type: dict
        default: {}
      packages:
        description: Debian packages whose exact versions decide what the build gives.
        type: list
        elements: str
        default: []
      kernel_btf:
        description: Whether the build depends on the type information of the running kernel.
        type: bool
        default: false
      sources:
        description: Sources from elsewhere, laid out below V({source}) in this order.
        type: list
        elements: dict
        default: []
        suboptions:
          url:
            description: The upstream's own address of a repository or an archive.
            type: str
            required: true
          commit:
            description: The full commit of a repository; its submodules follow from it.
            type: str
          sha256:
            description: The digest of an archive.
            type: str
          into:
            description: The directory below the sources.
            type: str
            default: "."
          strip:
            description: How many leading directories of an archive's names to leave out.
            type: int
            default: 1
          unpack:
            description: Whether to unpack an archive, or to lay it down as it is.
            type: bool
            default: true
      recorded:
        description:
          - Whether the record holds all files of the prefix, or the named artifacts alone.
          - A toolchain has tens of thousands of files, and a record is checked at every run.
        type: str
        choices: [all, named]
        default: all
      source:
        description: What the record says the component is; V(upstream) for unpacked binaries.
        type: str
        choices: [build, upstream]
        default: build
author:
  - The uplab authors
"""

EXAMPLES = r"""
- name: Build the servers
  uplab_build:
    root: /opt/uplab
    component: servers
    source_sha256: "{{ lookup('uplab_source', servers_source) }}"
    archive: "{{ lookup('uplab_source', servers_source, want='archive') }}"
    recipe:
      version: "0.1.0"
      commands:
        - argv: ["{root}/current/golang/bin/go", build, -o, "{prefix}/bin/go-server", .]
          chdir: "{source}/https"
      artifacts: [bin/go-server]
      tools:
        go: ["{root}/current/golang/bin/go", version]
"""

RETURN = r"""
hash:
  description: The first 12 hex digits of the hash of the component's inputs.
  returned: success
  type: str
record:
  description: The record of the finished build.
  returned: success
  type: dict
log:
  description: Where the output of the commands is kept on the host.
  returned: always
  type: str
"""

LOG_LINES_SHOWN = 20
#: What one compiler of C++ may take; fewer run at once where less is free.
MEMORY_PER_JOB_BYTES = 1 << 30


class Interrupted(BaseException):
    """A signal asked the build to end; not an Exception, so that nothing swallows it."""


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into an exception, so that a build that is told to end cleans up."""
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread may set handlers; a killed build is cleaned up by the next one.
        yield
        return

    def end(number: int, _frame: FrameType | None) -> None:
        raise Interrupted(signal.Signals(number).name)

    # Some strategies run modules inside a process that lives on, hence the way back.
    saved = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in saved.items():
            signal.signal(number, handler)


@contextmanager
def all_processors() -> Iterator[None]:
    """Let compilers run on every processor: some strategies pin the process that runs modules."""
    saved = os.sched_getaffinity(0)
    # The kernel takes out what the control group of this process may not use.
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    try:
        yield
    finally:
        os.sched_setaffinity(0, saved)


@contextmanager
def only_build(place: Place) -> Iterator[int]:
    """Hold the component's lock; yields its descriptor; raises StoreError where it is taken."""
    path = place.store / f".lock-{place.component}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(
                f"{place.component}: another build of it is running on this host "
                f"(its output: {place.log}). Wait for its end and run this again"
            ) from error
        yield descriptor
    finally:
        os.close(descriptor)


def remove_leftovers(place: Place) -> None:
    """Remove what killed builds of the component left; the lock says that none is running."""
    for pattern in (f".part-{place.component}-*", f".old-{place.component}-*"):
        for path in place.store.glob(pattern):
            shutil.rmtree(path)


def unpack(archive: str, source_sha256: str, target: Path) -> None:
    """Unpack the sources; raises StoreError unless they are what the digest says."""
    try:
        data = lzma.decompress(base64.b64decode(archive, validate=True))
    except (ValueError, lzma.LZMAError) as error:
        raise StoreError(f"the archive of the sources cannot be read: {error}") from error
    seen = hashlib.sha256(data).hexdigest()
    if seen != source_sha256:
        raise StoreError(
            f"the sources changed while Ansible ran: their sha256 is {seen}, "
            f"{source_sha256} was announced. Run it again"
        )
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for member in tar:
            unpack_file(tar, member, target)


def unpack_file(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    """Write one file of the sources; raises StoreError on anything but a file below the target."""
    name = Path(member.name)
    content = tar.extractfile(member) if member.isfile() else None
    if content is None or name.is_absolute() or ".." in name.parts:
        raise StoreError(f"the archive of the sources holds {member.name!r}: not a plain file")
    path = target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.read())
    path.chmod(0o755 if member.mode & 0o100 else 0o644)


def jobs() -> int:
    """How many compilers may run at once: one a processor, fewer where memory is short."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    available = next(line for line in lines if line.startswith("MemAvailable:"))
    by_memory = int(available.split()[1]) * 1024 // MEMORY_PER_JOB_BYTES
    return max(1, min(len(os.sched_getaffinity(0)), by_memory))


def build(place: Place, recipe: dict[str, Any], site: dict[str, Any], lock: int) -> None:
    """Fetch the sources, run the recipe's commands; raises StoreError with the end of the log."""
    places = {
        "source": place.part / "source",
        "build": place.part / "build",
        "prefix": place.part / "prefix",
        "home": place.part / "home",
        "root": place.root,
        "cache": place.cache,
        "jobs": Path(str(jobs())),
    }
    for name in ("source", "build", "prefix", "home"):
        places[name].mkdir(parents=True, exist_ok=True)
    more = {key: expand(str(text), places) for key, text in recipe["environment"].items()}
    environment = clean_environment(**{"HOME": str(places["home"]), **more})
    with place.log.open("wb") as log:

        def logged(argv: list[str], chdir: Path, environment: dict[str, str]) -> str:
            log.write(f"$ cd {chdir} && {shlex.join(argv)}\n".encode())
            log.flush()
            return run(argv, chdir, environment, log.fileno(), lock)

        fetcher = Fetcher(place.component, place.cache, site, logged, place.log)
        fetcher.fetch(recipe.get("sources", []), places["source"])
        for name, content in site["files"].items():
            path = Path(expand(name, places))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        for command in recipe["commands"]:
            argv = [expand(word, places) for word in command["argv"]]
            why = logged(argv, Path(expand(command["chdir"], places)), environment)
            if why:
                raise StoreError(failure(place, argv, why))


def run(argv: list[str], chdir: Path, environment: dict[str, str], log: int, lock: int) -> str:
    """Run one command into the log; returns why it failed, or an empty text."""
    try:
        process = subprocess.Popen(
            argv,
            cwd=chdir,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=(lock,),
            start_new_session=True,
            umask=0o022,
        )
    except OSError as error:
        return f"cannot be run: {error.strerror} ({error.filename})"
    try:
        status = process.wait()
    finally:
        if process.returncode is None:
            # Compilers are children of make: the whole session has to go.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with exit code {status}" if status else ""


def failure(place: Place, argv: list[str], why: str) -> str:
    """The message of a failed build: component, command, end of the log, where the log is."""
    lines = place.log.read_text(encoding="utf-8", errors="replace").splitlines()
    shown = lines[-LOG_LINES_SHOWN:]
    quoted = "\n".join(f"  {line}" for line in shown)
    return (
        f"{place.component}: the build failed: {shlex.join(argv)} {why}.\n"
        f"The last {len(shown)} lines of {place.log} on the host:\n{quoted}"
    )


def collect(place: Place, wanted: list[str], recorded: str) -> dict[str, Any]:
    """The files of the finished prefix with their sha256; raises StoreError where one is missing.

    ``recorded`` says whether all of them count or the wanted ones alone.
    """
    prefix = place.part / "prefix"
    for name in wanted:
        if not (prefix / name).is_file():
            raise StoreError(
                f"{place.component}: the build ended well but did not make {name}. "
                f"Its log on the host: {place.log}"
            )
    if recorded == "named":
        # Tens of thousands of files: one flush of everything is quicker than one for each.
        os.sync()
        return {name: artifact(prefix / name) for name in wanted}
    found: dict[str, Any] = {}
    for path in sorted([prefix, *prefix.rglob("*")]):
        if path.is_symlink():
            continue
        # It has to be on the disk before a record says that it is.
        if path.is_dir():
            sync_directory(path)
        else:
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
            found[str(path.relative_to(prefix))] = artifact(path)
    return found


def finalise(place: Place, record: dict[str, Any]) -> None:
    """Make the build a finished one; at every moment a record means a whole prefix."""
    place.record.unlink(missing_ok=True)
    sync_directory(place.store)
    if place.prefix.exists():
        # A damaged build of the same inputs: out of the way by a rename, removed later.
        place.prefix.rename(place.store / f".old-{place.entry}-{os.getpid()}")
    (place.part / "prefix").rename(place.prefix)
    sync_directory(place.store)
    write_atomically(place.record, pretty(record))


def make(found: Probe, parameters: dict[str, Any]) -> dict[str, Any]:
    """Build the component and finish it; returns its record; raises StoreError and OSError."""
    place, recipe = found.place, parameters["recipe"]
    archive = parameters.get("archive")
    site = {"git": {}, "archives": None, "files": {}, **(parameters.get("site") or {})}
    with ending_on_signals(), all_processors(), only_build(place) as lock:
        remove_leftovers(place)
        started_ns = time.monotonic_ns()
        try:
            if archive:
                unpack(archive, parameters["source_sha256"], place.part / "source")
            build(place, recipe, site, lock)
            record = {
                "schema": SCHEMA,
                "component": place.component,
                "hash": place.hash12,
                "source": recipe.get("source", "build"),
                "version": recipe["version"],
                "prefix": str(place.prefix),
                "inputs": found.inputs,
                "artifacts": collect(place, recipe["artifacts"], recipe.get("recorded", "all")),
                "built_utc": utc_now(),
                "build_s": round((time.monotonic_ns() - started_ns) / 1e9, 1),
            }
            finalise(place, record)
        finally:
            remove_leftovers(place)
    return record


def act(parameters: dict[str, Any], check: bool) -> dict[str, Any]:
    """Build what is missing and link it; returns the module's result; raises StoreError."""
    root = absolute_root(parameters["root"])
    source_sha256 = parameters.get("source_sha256")
    found = probe(root, parameters["component"], source_sha256, parameters["recipe"])
    place = found.place
    if found.missing and not check:
        raise StoreError(
            f"{place.component}: this host lacks what builds it: {', '.join(found.missing)}. "
            "Run: ansible-playbook playbooks/setup.yml"
        )
    # Without its tools the hash, and so the name of the build, is not known yet.
    name = place.component if found.missing else str(place.prefix)
    result: dict[str, Any] = {
        "changed": not (found.intact and found.linked),
        "hash": None if found.missing else place.hash12,
        "log": str(place.log),
        "diff": {"before": "", "after": f"{name}\n"},
    }
    if check:
        return result
    record = found.record
    if not found.intact:
        record = make(found, parameters)
    if result["changed"]:
        link_atomically(place.current, place.prefix)
    return {**result, "record": record}


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "archive": {"type": "str"},
            **SITE_OPTIONS,
            **RECIPE_OPTIONS,
        },
        required_together=[("archive", "source_sha256")],
        supports_check_mode=True,
    )
    component = module.params["component"]
    log = str(Path(module.params["root"]) / "log" / f"{component}.log")
    try:
        module.exit_json(**act(module.params, module.check_mode))
    except StoreError as error:
        module.fail_json(msg=str(error), log=log)
    except Interrupted as error:
        text = f"{component}: the build was ended by {error}; nothing of it is left"
        module.fail_json(msg=text, log=log)
    except OSError as error:
        module.fail_json(msg=f"{component}: {reason(error)}", log=log)


if __name__ == "__main__":
    main()
