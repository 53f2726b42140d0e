#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: remove what uplab put on a host, all of it or what nothing needs any more."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.uplab_gc import collect
from ansible.module_utils.uplab_host import absolute_root, reported
from ansible.module_utils.uplab_teardown import Places, Removal, is_ours
from ansible.module_utils.uplab_tree import refuse_mounts
from ansible.module_utils.uplab_use import alone, refuse_tuned

DOCUMENTATION = r"""
---
module: uplab_remove
short_description: Remove what uplab put on a host
version_added: "0.1.0"
description:
  - V(absent) removes everything that setting up put there; V(pruned) removes what is not in use any
    more and leaves the rest as it is.
  - Only below a O(root) that is uplab's by its manifest or its directories and holds nothing else.
    Links are removed and never followed; where a file system is mounted below, nothing is removed.
  - Nothing is removed while a build or a run is under way, nothing that a process uses, and nothing
    while settings that a run changed are not put back (C(tuning.json) beside O(spool)).
  - What makes a host one that was set up goes last, so that running it again ends what was cut off.
options:
  root:
    description: The root of everything that uplab keeps on the host; an absolute path.
    type: path
    required: true
  state:
    description:
      - V(absent) removes O(root), apt sources and keys of uplab's, puts back apt's files that uplab
        changed, and removes what runs left below C(/run).
      - V(pruned) removes entries of the store that nothing links to and what killed builds left.
    type: str
    choices: [absent, pruned]
    required: true
  host:
    description: The host's name in the inventory, for what is said.
    type: str
    required: true
  packages:
    description:
      - For V(absent), whether the Debian packages go that setting up added. Never one that was
        there before; refused where apt would have to remove others for it.
      - Without it they stay, and so does the list of them.
    type: bool
    default: false
  runs:
    description: For V(absent), whether runs go that nobody has collected.
    type: bool
    default: false
  keep_days:
    description: For V(pruned), entries that came to the host later than so many days ago stay.
    type: int
    default: 0
  cache:
    description: For V(pruned), whether fetched sources and compilers' caches go.
    type: bool
    default: false
  run_state:
    description: Where hostside keeps its lock and its ledger.
    type: path
    default: /run/uplab
  spool:
    description: Where hostside keeps runs until they are collected.
    type: path
    default: /var/lib/uplab/runs
  lock_timeout_s:
    description: How long to wait for another apt or dpkg, in seconds.
    type: int
    default: 600
author:
  - The uplab authors
"""

EXAMPLES = r"""
- name: Remove what setup put there, packages included
  uplab_remove:
    root: /opt/uplab
    state: absent
    host: "{{ inventory_hostname }}"
    packages: true

- name: Remove what is a month old and not in use
  uplab_remove:
    root: /opt/uplab
    state: pruned
    host: "{{ inventory_hostname }}"
    keep_days: 30
"""

RETURN = r"""
set_up:
  description: Whether uplab had set the host up.
  returned: success
  type: bool
removed:
  description: The paths that were removed, or with check mode would be.
  returned: success
  type: list
  elements: str
freed_bytes:
  description: The room that they took.
  returned: success
  type: int
restored:
  description: The files of apt's that uplab had changed and that are as before.
  returned: for C(absent)
  type: list
  elements: str
packages:
  description: The Debian packages that setting up added and that are still there.
  returned: for C(absent)
  type: list
  elements: str
packages_removed:
  description: Those that were removed.
  returned: for C(absent)
  type: list
  elements: str
runs:
  description: The runs that nobody has collected and that stay.
  returned: for C(absent)
  type: list
  elements: str
kept:
  description: What stays besides, each with its C(path) and C(why).
  returned: success
  type: list
  elements: dict
"""


def absent(places: Places, parameters: dict[str, Any], check: bool) -> dict[str, Any]:
    """Remove everything; returns the module's result; raises StoreError and OSError."""
    chosen = {key: parameters[key] for key in ("packages", "runs", "lock_timeout_s")}
    return Removal(places, check, **chosen).run()


def pruned(places: Places, parameters: dict[str, Any], check: bool) -> dict[str, Any]:
    """Remove what nothing needs; returns the module's result; raises StoreError and OSError."""
    root = places.root
    if not is_ours(root) or not (root / "store").is_dir():
        return {"changed": False, "set_up": False, "removed": [], "freed_bytes": 0, "kept": []}
    refuse_mounts(root)
    with alone(root, places.run_state):
        refuse_tuned(places.spool, places.host)
        done = collect(
            root,
            parameters["keep_days"],
            cache=parameters["cache"],
            check=check,
            now_s=time.time(),
        )
    return {**done.sweep.result(), "set_up": True, "kept": done.kept}


def act(parameters: dict[str, Any], check: bool) -> dict[str, Any]:
    """Do what the task asks; returns the module's result; raises StoreError and OSError."""
    root = absolute_root(parameters["root"])
    state, spool = Path(parameters["run_state"]), Path(parameters["spool"])
    places = Places(root, state, spool, parameters["host"])
    remove = absent if parameters["state"] == "absent" else pruned
    return remove(places, parameters, check)


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["absent", "pruned"], "required": True},
            "host": {"type": "str", "required": True},
            "packages": {"type": "bool", "default": False},
            "runs": {"type": "bool", "default": False},
            "keep_days": {"type": "int", "default": 0},
            "cache": {"type": "bool", "default": False},
            "run_state": {"type": "path", "default": "/run/uplab"},
            "spool": {"type": "path", "default": "/var/lib/uplab/runs"},
            "lock_timeout_s": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    with reported(module):
        module.exit_json(**act(module.params, module.check_mode))


if __name__ == "__main__":
    main()
