#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: Debian packages in one transaction, with a memory of what it added."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.uplab_apt import (
    APT_SOURCE_OPTIONS,
    AptSource,
    for_release,
    stale_files,
    wanted_source,
)
from ansible.module_utils.uplab_host import (
    StoreError,
    clean_environment,
    dpkg_status,
    dpkg_versions,
    pretty,
    read_json,
    reason,
    write_atomically,
)

DOCUMENTATION = r"""
---
module: uplab_packages
short_description: Install Debian packages in one transaction and remember what was added
version_added: "0.1.0"
description:
  - Installs what is missing in one run of apt, without recommended packages, and remembers in
    O(record) every package that came in by it, dependencies included.
  - Unlike M(ansible.builtin.apt) it needs no Python bindings of apt on the host, so that check mode
    works on a fresh one, and it asks dpkg first, so that a converged host costs milliseconds.
  - Package lists are fetched only if something is missing and the lists are empty or older than
    O(lists_max_age_s).  Where a foreign repository fails but the packages can be had, it warns.
  - Refuses a transaction that would remove a package.
  - Keeps further sources of packages, each with its key, which is taken only if it has the wanted
    fingerprint; those of earlier runs that nothing wants any more are removed.
options:
  names:
    description: The packages that must be there.
    type: list
    elements: str
    required: true
  names_by_release:
    description: Further packages, by the number of the Debian release that has them.
    type: dict
    default: {}
  sources:
    description: Sources of packages beside the host's own.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: A name for its files below C(/etc/apt).
        type: str
        required: true
      uri:
        description:
          - Where it is; V({release}) and V({codename}) stand for the host's Debian release.
        type: str
        required: true
      suite:
        description: Its suite, with the same placeholders.
        type: str
        required: true
      key_url:
        description: Where its armored key is.
        type: str
        required: true
      key_fingerprint:
        description: The fingerprint of the one key that is taken.
        type: str
        required: true
  mirrors:
    description: Prefixes of such sources' addresses, and what to use instead.
    type: dict
    default: {}
  record:
    description: The file that remembers the packages added; an absolute path.
    type: path
    required: true
  lists_max_age_s:
    description: How old apt's package lists may be, in seconds.
    type: int
    default: 86400
  lock_timeout_s:
    description: How long to wait for another apt or dpkg, in seconds.
    type: int
    default: 600
author:
  - The uplab authors
"""

EXAMPLES = r"""
- name: Install the packages
  uplab_packages:
    names: [golang-go, wrk]
    record: /opt/uplab/packages.json
"""

RETURN = r"""
added:
  description: The packages that this run added, dependencies included.
  returned: success
  type: list
  elements: str
missing:
  description: The packages of O(names) that were not there before.
  returned: success
  type: list
  elements: str
"""

LISTS = Path("/var/lib/apt/lists")
LINES_SHOWN = 12
INSTALL = ("--no-install-recommends", "install")
#: Second letter of dpkg's state: unpacked, half configured, half installed, triggers pending.
UNFINISHED = frozenset("UFHWt")


@dataclass(frozen=True)
class Plan:
    """What apt would do: package names by what happens to them."""

    added: list[str] = field(default_factory=list)
    upgraded: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


def parse_plan(text: str) -> Plan:
    """Read the ``Inst``, ``Remv`` lines of a simulated run of apt-get."""
    plan = Plan()
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] not in ("Inst", "Remv"):
            continue
        name = words[1].split(":")[0]
        if words[0] == "Remv":
            plan.removed.append(name)
        elif len(words) > 2 and words[2].startswith("["):
            plan.upgraded.append(name)
        else:
            plan.added.append(name)
    return plan


def lists_age_s(lists: Path, now_s: float) -> float | None:
    """The age of the newest package list in seconds; None where there is none at all."""
    times = [path.stat().st_mtime for path in lists.glob("*_Packages*")]
    if not times:
        return None
    # An update that finds nothing new keeps the lists' times but touches the directory.
    return max(0.0, now_s - max(*times, lists.stat().st_mtime))


class Apt:
    """apt-get and dpkg on this host."""

    def __init__(self, lock_timeout_s: int) -> None:
        self.environment = clean_environment(
            HOME="/root", DEBIAN_FRONTEND="noninteractive", NEEDRESTART_SUSPEND="1"
        )
        self.options = [
            "-q",
            "-o",
            f"DPkg::Lock::Timeout={lock_timeout_s}",
            "-o",
            "Dpkg::Options::=--force-confdef",
            "-o",
            "Dpkg::Options::=--force-confold",
        ]

    def run(self, argv: list[str]) -> tuple[int, str]:
        """Run a command; returns its exit code and everything it printed; raises StoreError."""
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=self.environment,
                check=False,
            )
        except OSError as error:
            raise StoreError(f"cannot run {argv[0]}: {error.strerror}") from error
        return done.returncode, done.stdout

    def update(self) -> str:
        """Fetch the package lists; returns what went wrong, or an empty text."""
        code, text = self.run(["apt-get", *self.options, "update"])
        return complaint(text) if code else ""

    def simulate(self, names: list[str]) -> tuple[Plan, str]:
        """What installing would do, and why it cannot be done (an empty text where it can)."""
        code, text = self.run(["apt-get", *self.options, *INSTALL, *names, "--simulate"])
        return parse_plan(text), complaint(text) if code else ""

    def install(self, names: list[str]) -> None:
        """Install packages; raises StoreError with the end of apt's output."""
        code, text = self.run(["apt-get", *self.options, "-y", *INSTALL, *names])
        if code:
            raise StoreError(f"apt-get install failed: {complaint(text)}")

    def configure(self) -> None:
        """Finish what a killed dpkg left half done; raises StoreError."""
        code, text = self.run(["dpkg", "--force-confdef", "--force-confold", "--configure", "-a"])
        if code:
            raise StoreError(f"dpkg --configure -a failed: {complaint(text)}")


def complaint(text: str) -> str:
    """The errors in apt's output, or its last lines where it names none."""
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("E:", "Err:", "dpkg: error"))]
    return "\n".join((errors or lines)[-LINES_SHOWN:])


def settle(known: dict[str, Any], installed: dict[str, str]) -> dict[str, Any]:
    """The memory after a run that was killed: what it announced and dpkg now has was added."""
    came = [name for name in known.get("announced", []) if name in installed]
    return {"added": sorted({*known.get("added", []), *came}), "announced": []}


@dataclass(frozen=True)
class Sources:
    """What has to change so that the host has the wanted sources of packages and no others."""

    added: list[AptSource]
    stale: list[Path]

    def apply(self) -> None:
        """Write the new ones, remove the old ones; raises StoreError."""
        for source in self.added:
            source.write()
        for path in self.stale:
            path.unlink()


def plan_sources(sources: list[dict[str, str]], mirrors: dict[str, str]) -> Sources:
    """Compare the wanted sources of packages with those of the host."""
    wanted = [wanted_source(source, mirrors) for source in sources]
    return Sources([source for source in wanted if not source.is_there()], stale_files(wanted))


def plan_with_fresh_lists(
    apt: Apt, names: list[str], lists_max_age_s: int, warn: Callable[[str], None]
) -> Plan:
    """What apt would do, on package lists that are new enough; raises StoreError."""
    age_s = lists_age_s(LISTS, time.time())
    fetch = age_s is None or age_s > lists_max_age_s
    trouble = apt.update() if fetch else ""
    plan, problem = apt.simulate(names)
    if problem and not fetch:
        trouble = apt.update()
        plan, problem = apt.simulate(names)
    if problem:
        raise StoreError(f"apt cannot install {' '.join(names)}: {problem}\n{trouble}".strip())
    if trouble:
        warn(f"apt-get update failed in part, what is needed can be had all the same: {trouble}")
    return plan


def transaction(
    apt: Apt,
    names: list[str],
    record: Path,
    lists_max_age_s: int,
    warn: Callable[[str], None],
) -> list[str]:
    """Install packages and remember what came in; returns it; raises StoreError."""
    if any(status[1:2] in UNFINISHED for _, _, status in dpkg_status()):
        apt.configure()
    before = dpkg_versions()
    plan = plan_with_fresh_lists(apt, names, lists_max_age_s, warn)
    if plan.removed:
        raise StoreError(
            f"apt would remove {' '.join(plan.removed)} to install {' '.join(names)}; "
            f"nothing was changed. Run: apt-get install --simulate {' '.join(names)}"
        )
    memory = settle(read_json(record) or {}, before)
    # Written first, so that a run killed half way does not forget what it had begun to add.
    announced = sorted(name for name in plan.added if name not in before)
    write_atomically(record, pretty({**memory, "announced": announced}))
    apt.install(names)
    added = sorted(set(dpkg_versions()) - set(before))
    memory["added"] = sorted({*memory["added"], *added})
    write_atomically(record, pretty(memory))
    return added


def act(parameters: dict[str, Any], check: bool, warn: Callable[[str], None]) -> dict[str, Any]:
    """Install what is missing; returns the module's result; raises StoreError and OSError."""
    installed = dpkg_versions()
    names = sorted({*parameters["names"], *for_release(parameters.get("names_by_release") or {})})
    sources = plan_sources(parameters.get("sources") or [], parameters.get("mirrors") or {})
    missing = [name for name in names if name not in installed]
    coming = [*(str(source.path) for source in sources.added), *missing]
    diff = {
        "before": "".join(f"{path}\n" for path in sources.stale),
        "after": "".join(f"{name}\n" for name in coming),
    }
    changed = bool(coming or sources.stale)
    result = {"changed": changed, "missing": missing, "added": [], "diff": diff}
    record, age_s = Path(parameters["record"]), parameters["lists_max_age_s"]
    if not missing and not check:
        known = read_json(record) or {}
        if known.get("announced"):
            write_atomically(record, pretty(settle(known, installed)))
    if not changed or check:
        return result
    if os.geteuid() != 0:
        raise StoreError(f"installing {' '.join(coming)} needs root")
    sources.apply()
    if not missing:
        return result
    apt = Apt(parameters["lock_timeout_s"])
    # What a new source offers is known only from lists that were fetched after it came.
    age_s = 0 if sources.added else age_s
    return {**result, "added": transaction(apt, missing, record, age_s, warn)}


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "required": True},
            "names_by_release": {"type": "dict", "default": {}},
            "sources": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": APT_SOURCE_OPTIONS,
            },
            "mirrors": {"type": "dict", "default": {}},
            "record": {"type": "path", "required": True},
            "lists_max_age_s": {"type": "int", "default": 86400},
            "lock_timeout_s": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**act(module.params, module.check_mode, module.warn))
    except StoreError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=reason(error))


if __name__ == "__main__":
    main()
