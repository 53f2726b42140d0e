#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: Debian packages in one transaction, with a memory of what it added."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.uplab_apt import APT_SOURCE_OPTIONS, for_release
from ansible.module_utils.uplab_apt_bundle import apt_of_bundle
from ansible.module_utils.uplab_apt_get import Apt, apart, only_looking
from ansible.module_utils.uplab_apt_plan import Plan, as_result, refusal, services
from ansible.module_utils.uplab_apt_sources import Changes, at_mirrors
from ansible.module_utils.uplab_apt_sources import plan as plan_sources
from ansible.module_utils.uplab_host import (
    StoreError,
    dpkg_status,
    dpkg_unfinished,
    dpkg_versions,
    pretty,
    read_json,
    reported,
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
  - Refuses, with the list, a transaction that would remove a package or change one on hold, and,
    unless O(allow_upgrade), one that would upgrade a kernel, a boot loader, the C library or a part
    of Proxmox VE; the lists are in C(module_utils/uplab_apt_plan.py).
  - In check mode it changes nothing, and returns in RV(plan) what it would do; package lists that
    are missing or old are fetched into a temporary directory then.
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
    description:
      - Prefixes of addresses of packages, and what to use instead.
      - For the host's own sources this holds in runs of this module alone, with lists of their own
        in O(cache); the host's files and lists stay as they are.
    type: dict
    default: {}
  pve_no_subscription:
    description:
      - On a Proxmox VE without a subscription, switch the enterprise repositories off, and add the
        one that needs none.  Where it is no longer wanted, the originals are put back.
    type: bool
    default: false
  allow_upgrade:
    description: Also upgrade what the host boots or stands on.
    type: bool
    default: false
  cache:
    description: The directory for sources and lists that hold in this module's runs alone.
    type: path
    required: true
  repository:
    description:
      - The directory in which a bundle has a repository of packages for each release, by name.
      - Used for this transaction alone, beside the host's sources only if it is not enough.
    type: path
  kept:
    description: The directory that keeps the originals of files of sources that were changed.
    type: path
    required: true
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
    cache: /opt/uplab/cache/apt
    kept: /opt/uplab/apt-sources
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
paths:
  description: Files that were written or removed beside those of packages, in check mode would be.
  returned: success
  type: list
  elements: str
plan:
  description:
    - What would be done.  C(added), C(upgraded) (both with C(name), C(version), C(bytes) to fetch),
      C(removed), C(held) (on hold, and apt would have to change them), C(kept_back), C(protected)
      (needs O(allow_upgrade)), C(download_bytes), C(units) (systemd units of packages that are
      upgraded or removed), C(services) (packages added that bring a service, as far as the lists
      tell), C(sources) (files that are C(added), C(removed), C(switched_off), C(restored)),
      C(refused) and C(problem) (why it would be refused or cannot be done; empty texts otherwise).
  returned: in check mode
  type: dict
"""

UNITS = (".service", ".socket", ".timer", ".path", ".mount")
DPKG_INFO = Path("/var/lib/dpkg/info")


def settle(known: dict[str, Any], installed: dict[str, str]) -> dict[str, Any]:
    """The memory after a run that was killed: what it announced and dpkg now has was added."""
    came = [name for name in known.get("announced", []) if name in installed]
    return {"added": sorted({*known.get("added", []), *came}), "announced": []}


def plan_with_fresh_lists(
    apt: Apt, names: list[str], lists_max_age_s: int, warn: Callable[[str], None]
) -> Plan:
    """What apt would do, on package lists that are new enough; raises StoreError."""
    age_s = apt.lists_age_s()
    fetch = age_s is None or age_s > lists_max_age_s
    trouble = apt.update() if fetch else ""
    plan, problem = apt.simulate(names)
    if problem and not fetch:
        trouble = apt.update()
        plan, problem = apt.simulate(names)
    if problem:
        # apt itself says no more than that some are.
        held = on_hold() if "held" in problem else []
        trouble += f"\nOn hold; there, run: apt-mark unhold {' '.join(held)}" if held else ""
        raise StoreError(f"apt cannot install {' '.join(names)}: {problem}\n{trouble}".strip())
    if trouble:
        warn(f"apt-get update failed in part, what is needed can be had all the same: {trouble}")
    return plan


def on_hold() -> list[str]:
    """The packages that somebody put on hold; raises StoreError."""
    return sorted(name for name, _, status in dpkg_status() if status.startswith("h"))


def transaction(
    apt: Apt, names: list[str], parameters: dict[str, Any], warn: Callable[[str], None]
) -> list[str]:
    """Install packages and remember what came in; returns it; raises StoreError."""
    record = Path(parameters["record"])
    if dpkg_unfinished(dpkg_status()):
        apt.configure()
    before = dpkg_versions()
    plan = plan_with_fresh_lists(apt, names, parameters["lists_max_age_s"], warn)
    refused = refusal(plan, names, allow_upgrade=bool(parameters.get("allow_upgrade")))
    if refused:
        raise StoreError(refused)
    memory = settle(read_json(record) or {}, before)
    # Written first, so that a run killed half way does not forget what it had begun to add.
    announced = sorted({step.name for step in plan.added if step.name not in before})
    write_atomically(record, pretty({**memory, "announced": announced}))
    apt.install(names)
    added = sorted(set(dpkg_versions()) - set(before))
    memory["added"] = sorted({*memory["added"], *added})
    write_atomically(record, pretty(memory))
    return added


def apt_of_site(parameters: dict[str, Any], changes: Changes, missing: list[str]) -> Apt:
    """The apt that installs: the host's, or one apart where a bundle or mirrors serve the site."""
    timeout_s = parameters["lock_timeout_s"]
    mirrored = at_mirrors(changes.now, parameters.get("mirrors") or {})
    repository, cache = parameters.get("repository"), Path(parameters["cache"])
    bundled = apt_of_bundle(repository, cache, mirrored, missing, timeout_s)
    if bundled is not None:
        return bundled
    if mirrored == changes.now:
        return Apt(timeout_s)
    return apart(cache, mirrored, timeout_s)


@contextmanager
def apt_for_looking(
    parameters: dict[str, Any], missing: list[str], changes: Changes
) -> Iterator[Apt]:
    """An apt that changes nothing on the host; what it fetches is gone afterwards."""
    timeout_s, mirrors = parameters["lock_timeout_s"], parameters.get("mirrors") or {}
    with tempfile.TemporaryDirectory(prefix="uplab-apt-") as folder:
        top = Path(folder)
        # apt fetches as a user of its own.
        top.chmod(0o755)
        files = at_mirrors(changes.tried(top), mirrors)
        repository = parameters.get("repository")
        bundled = apt_of_bundle(repository, top / "apt", files, missing, timeout_s)
        if bundled is not None:
            yield bundled
            return
        looking = only_looking(top, timeout_s)
        age_s = looking.lists_age_s()
        fresh = age_s is not None and age_s <= parameters["lists_max_age_s"]
        # Where the host's own lists lack something, a run would fetch them again.
        enough = fresh and files == changes.now and not looking.simulate(missing)[1]
        yield looking if enough else apart(top, files, timeout_s)


def look_ahead(
    parameters: dict[str, Any], missing: list[str], changes: Changes, warn: Callable[[str], None]
) -> dict[str, Any]:
    """What a run would do; changes nothing.  What keeps it from being done is part of it."""
    nothing = as_result(Plan(), {}, units_of)
    found = {**nothing, "sources": changes.as_result(), "services": []}
    if not missing:
        return {**found, "refused": "", "problem": ""}
    try:
        with apt_for_looking(parameters, missing, changes) as apt:
            plan = plan_with_fresh_lists(apt, missing, parameters["lists_max_age_s"], warn)
            found |= as_result(plan, apt.download_bytes(missing), units_of)
            found["services"] = services(apt.show(f"{s.name}={s.version}" for s in plan.added))
    except StoreError as error:
        held = on_hold() if "On hold" in str(error) else []
        return {**found, "held": held, "refused": "", "problem": str(error)}
    allow = bool(parameters.get("allow_upgrade"))
    return {**found, "refused": refusal(plan, missing, allow_upgrade=allow), "problem": ""}


def units_of(package: str) -> list[str]:
    """The systemd units of an installed package."""
    found: set[str] = set()
    for path in [DPKG_INFO / f"{package}.list", *DPKG_INFO.glob(f"{package}:*.list")]:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        found |= {Path(line).name for line in lines if "/systemd/system/" in line}
    return sorted(name for name in found if name.endswith(UNITS))


def act(parameters: dict[str, Any], check: bool, warn: Callable[[str], None]) -> dict[str, Any]:
    """Install what is missing; returns the module's result; raises StoreError and OSError."""
    installed = dpkg_versions()
    kept = Path(parameters["kept"])
    names = sorted({*parameters["names"], *for_release(parameters.get("names_by_release") or {})})
    changes = plan_sources(parameters, installed, kept)
    missing = [name for name in names if name not in installed]
    sources = changes.as_result()
    coming = [*sources["added"], *sources["switched_off"], *sources["restored"], *missing]
    diff = {
        "before": "".join(f"{path}\n" for path in sources["removed"]),
        "after": "".join(f"{name}\n" for name in coming),
    }
    changed = bool(missing or changes)
    paths = [path for group in sources.values() for path in group]
    paths += [parameters["record"]] if missing else []
    result = {"changed": changed, "missing": missing, "added": [], "diff": diff, "paths": paths}
    if check:
        found = look_ahead(parameters, missing, changes, warn)
        for against in filter(None, (found["refused"], found["problem"])):
            warn(against)
        return {**result, "plan": found}
    record = Path(parameters["record"])
    if not missing:
        known = read_json(record) or {}
        if known.get("announced"):
            write_atomically(record, pretty(settle(known, installed)))
    if not changed:
        return result
    if os.geteuid() != 0:
        raise StoreError(f"installing {' '.join(coming)} needs root")
    changes.apply(kept)
    if not missing:
        return result
    if changes:
        # What other sources offer is known only from lists that were fetched after they came.
        changes = plan_sources(parameters, installed, kept)
        parameters = {**parameters, "lists_max_age_s": 0}
    added = transaction(apt_of_site(parameters, changes, missing), missing, parameters, warn)
    return {**result, "added": added}


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
            "pve_no_subscription": {"type": "bool", "default": False},
            "allow_upgrade": {"type": "bool", "default": False},
            "cache": {"type": "path", "required": True},
            "repository": {"type": "path"},
            "kept": {"type": "path", "required": True},
            "record": {"type": "path", "required": True},
            "lists_max_age_s": {"type": "int", "default": 86400},
            "lock_timeout_s": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    with reported(module):
        module.exit_json(**act(module.params, module.check_mode, module.warn))


if __name__ == "__main__":
    main()
