#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: finished builds of another host into uplab's store, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.uplab_builder import finalise, only_build
from ansible.module_utils.uplab_host import (
    Place,
    StoreError,
    absolute_root,
    artifact,
    canonical,
    damages,
    kernel_interface,
    link_atomically,
    points_to,
    read_json,
    reason,
    sha256_of,
    sync_directory,
    utc_now,
)

DOCUMENTATION = r"""
---
module: uplab_import
short_description: Put finished builds of another host into uplab's store
version_added: "0.1.0"
description:
  - Takes builds that another host has made out of an archive of C(lab.setup --from), which the
    controller has checked, and links them. Nothing is compiled.
  - A build comes whole or not at all, as with M(uplab_build), and each of its files is read again
    before the build counts. One that is there already with the same files stays as it is.
  - Its record says in C(from) which host it is of, and when it was copied.
options:
  root:
    description: The root of everything that uplab keeps on the host; an absolute path.
    type: path
    required: true
  state:
    description:
      - V(checked) refuses builds that cannot run here, and says which ones are not here yet. It
        never changes anything.
      - V(present) puts those that are not here into the store, and links all of them.
    type: str
    choices: [checked, present]
    default: present
  target:
    description: The name of this host in the inventory, for what is said of it.
    type: str
    required: true
  source:
    description: The name of the host whose builds they are.
    type: str
    required: true
  debian:
    description: The number of that host's Debian release.
    type: str
    default: ""
  entries:
    description:
      - The builds by their components, each with C(hash), C(artifacts_sha256), C(architecture),
        C(kernel), C(glibc) and C(packages), as C(lab.setup --from) reads them from the archive.
    type: dict
    required: true
  archive:
    description: The archive, on this host; for V(present) where something is not here yet.
    type: path
  sha256:
    description: The digest of the archive.
    type: str
author:
  - The uplab authors
"""

EXAMPLES = r"""
- name: Take over the builds of another host
  uplab_import:
    root: /opt/uplab
    target: "{{ inventory_hostname }}"
    source: "{{ uplab_from.host }}"
    entries: "{{ uplab_from.entries }}"
    archive: /opt/uplab/cache/from.tar
    sha256: "{{ uplab_from.sha256 }}"
"""

RETURN = r"""
missing:
  description: The components whose builds are not here yet.
  returned: success
  type: list
  elements: str
paths:
  description: What was written, in check mode what would be.
  returned: for V(present)
  type: list
  elements: str
"""

INDEX = "index.json"
OS_RELEASE = Path("/etc/os-release")
#: What every Debian has, in the release that its glibc is of.
EVERYWHERE = frozenset({"libc6"})
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Wanted:
    """One build that is to be here."""

    place: Place
    facts: dict[str, Any]

    def held(self) -> bool:
        """Whether it is here with the same files, all of them intact."""
        record = read_json(self.place.record)
        if record is None or not isinstance(record.get("artifacts"), dict):
            return False
        same = artifacts_sha256(record["artifacts"]) == self.facts["artifacts_sha256"]
        return same and record.get("prefix") == str(self.place.prefix) and not damages(record)


def artifacts_sha256(artifacts: dict[str, Any]) -> str:
    """The digest of a record's files, as the controller computes it."""
    return hashlib.sha256(canonical(artifacts)).hexdigest()


def version(text: str) -> tuple[int, ...]:
    """A version as numbers, which compare as versions do."""
    return tuple(int(part) for part in re.findall(r"\d+", text))


def host_glibc() -> str:
    """The version of this host's glibc, as in ``2.36``."""
    return (os.confstr("CS_GNU_LIBC_VERSION") or "").removeprefix("glibc ")


def host_debian() -> str:
    """The number of this host's Debian release; an empty text where it has none."""
    found = re.search(r'^VERSION_ID="?([^"\n]*)', OS_RELEASE.read_text(encoding="utf-8"), re.M)
    return found[1] if found else ""


def problems(facts: dict[str, Any], source: str, debian: str) -> list[str]:
    """Why a build of another host cannot be used on this one; [] where it can."""
    found = []
    here = os.uname().machine
    if facts["architecture"] != here:
        found.append(f"it is for {facts['architecture']}, this host is {here}")
    if facts["glibc"] and version(facts["glibc"]) > version(host_glibc()):
        found.append(f"it needs glibc {facts['glibc']}, this host has {host_glibc()}")
    if facts["kernel"] and facts["kernel"] != kernel_interface():
        found.append(
            f"it was compiled for the kernel of {source}, and this host runs another one "
            f"({os.uname().release}; the kernels' type information differs)"
        )
    libraries = [name for name in facts["packages"] if name not in EVERYWHERE]
    if libraries and debian != host_debian():
        found.append(
            f"it needs {', '.join(libraries)} of Debian {debian}, this host is "
            f"Debian {host_debian()}"
        )
    return found


def refuse_unfit(wanted: dict[str, Wanted], parameters: dict[str, Any]) -> None:
    """Raise StoreError, naming each build that cannot be used here."""
    target, source = parameters["target"], parameters["source"]
    found = [
        f"{component}: {problem}"
        for component, each in wanted.items()
        for problem in problems(each.facts, source, parameters["debian"])
    ]
    if found:
        raise StoreError(
            f"{target} cannot use what {source} has built: {'; '.join(found)}. "
            f"Nothing was changed. Have it built there: invoke lab.setup --host {target}"
        )


def take(wanted: list[Wanted], archive: Path, sha256: str, source: str) -> None:
    """Put builds into the store out of an archive; raises StoreError where it is another one."""
    seen = sha256_of(archive)
    if seen != sha256:
        raise StoreError(f"{archive}: sha256 is {seen}, {sha256} was announced. Run it again")
    with tarfile.open(archive, mode="r:") as tar:
        index = json.loads(content(tar, tar.getmember(INDEX)))
        entries = {entry["record"]["component"]: entry for entry in index["entries"]}
        for each in wanted:
            entry = entries.get(each.place.component)
            if entry is None or entry["record"]["hash"] != each.place.hash12:
                raise StoreError(f"{archive} holds no {each.place.entry}")
            with only_build(each.place):
                unpack(tar, each.place, entry)
                finalise(each.place, record_here(each.place, entry["record"], source))


def record_here(place: Place, record: dict[str, Any], source: str) -> dict[str, Any]:
    """The record of a copied build: the one of its host, with where it lies and came from."""
    copied = {"host": source, "copied_utc": utc_now()}
    return {**record, "prefix": str(place.prefix), "from": copied}


def content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """The content of a plain file; raises StoreError for anything else."""
    stream = tar.extractfile(member) if member.isreg() else None
    if stream is None:
        raise StoreError(f"{member.name!r} in the archive is no plain file")
    with stream:
        return stream.read()


def unpack(tar: tarfile.TarFile, place: Place, entry: dict[str, Any]) -> None:
    """Lay a build's files down beside the store; raises StoreError where one is not as announced.

    Only what the index names is taken, folders first and links last: nothing goes through a link.
    """
    prefix = place.part / "prefix"
    prefix.mkdir(parents=True)
    for name in entry["folders"]:
        below(prefix, name).mkdir(mode=0o755)
    for name, noted in entry["files"].items():
        path = below(prefix, name)
        copy(tar, f"{place.entry}/{name}", path, noted["mode"] & 0o755)
        seen = artifact(path)
        if seen != {"sha256": noted["sha256"], "bytes": noted["bytes"]}:
            raise StoreError(f"{place.entry}: {name} arrived with the sha256 {seen['sha256']}")
    for name, target in entry["links"].items():
        if Path(target).is_absolute():
            raise StoreError(f"{place.entry}: {name} leads to {target}, out of the build")
        below(prefix, name).symlink_to(target)
    for name in sorted([".", *entry["folders"]]):
        folder = prefix / name
        folder.chmod(0o755)
        sync_directory(folder)


def below(prefix: Path, name: str) -> Path:
    """The path of a name below a prefix; raises StoreError where it leads elsewhere."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or path == Path():
        raise StoreError(f"the name {name!r} in the archive leads elsewhere")
    return prefix / path


def copy(tar: tarfile.TarFile, name: str, path: Path, mode: int) -> None:
    """Write one file of an archive to the disk."""
    member = tar.getmember(name)
    stream = tar.extractfile(member) if member.isreg() else None
    if stream is None:
        raise StoreError(f"{name!r} in the archive is no plain file")
    with stream, path.open("xb") as out:
        while chunk := stream.read(CHUNK_BYTES):
            out.write(chunk)
        out.flush()
        os.fchmod(out.fileno(), mode)
        os.fsync(out.fileno())


def act(parameters: dict[str, Any], check: bool) -> dict[str, Any]:
    """Do what the task asks; returns the module's result; raises StoreError and OSError."""
    root = absolute_root(parameters["root"])
    wanted = {
        component: Wanted(Place(root, component, facts["hash"]), facts)
        for component, facts in sorted(parameters["entries"].items())
    }
    refuse_unfit(wanted, parameters)
    missing = [component for component, each in wanted.items() if not each.held()]
    result: dict[str, Any] = {"changed": False, "missing": missing}
    if parameters["state"] == "checked":
        return result
    unlinked = [
        place
        for place in (each.place for each in wanted.values())
        if not points_to(place.current, place.prefix)
    ]
    written = [str(wanted[component].place.prefix) for component in missing]
    result["paths"] = written + [str(place.current) for place in unlinked]
    result["changed"] = bool(result["paths"])
    result["diff"] = {"before": "", "after": "".join(f"{path}\n" for path in result["paths"])}
    if check:
        return result
    if missing:
        if not parameters["archive"] or not parameters["sha256"]:
            raise StoreError(f"not here yet, and no archive is named: {', '.join(missing)}")
        builds = [wanted[component] for component in missing]
        take(builds, Path(parameters["archive"]), parameters["sha256"], parameters["source"])
    for place in unlinked:
        link_atomically(place.current, place.prefix)
    return result


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["checked", "present"], "default": "present"},
            "target": {"type": "str", "required": True},
            "source": {"type": "str", "required": True},
            "debian": {"type": "str", "default": ""},
            "entries": {"type": "dict", "required": True},
            "archive": {"type": "path"},
            "sha256": {"type": "str"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**act(module.params, module.check_mode))
    except StoreError as error:
        module.fail_json(msg=str(error))
    except (tarfile.TarError, KeyError, ValueError) as error:
        module.fail_json(msg=f"{module.params['archive']} cannot be read: {error!r}")
    except OSError as error:
        module.fail_json(msg=reason(error))


if __name__ == "__main__":
    main()
