#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: what of a bundle a host lacks, and putting it into the host's cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.uplab_apt import for_release, host_release
from ansible.module_utils.uplab_host import absolute_root, dpkg_versions, reported
from ansible.module_utils.uplab_seeds import (
    chosen,
    described,
    finish,
    missing_files,
    packages_of,
    place,
)

DOCUMENTATION = r"""
---
module: uplab_bundle
short_description: Carry the parts of a bundle that a host needs into its cache
version_added: "0.1.0"
description:
  - Compares what the host's components need with what the host has and what the bundle offers, says
    what the bundle lacks, and copies what is missing below C(cache) in O(root).
  - An action plugin of the same name does the copying, in pieces, over Ansible's own connection.
  - Needs no git and nothing else on the host but Python.
options:
  root:
    description: The root of everything that uplab keeps on the host; an absolute path.
    type: path
    required: true
  folder:
    description: Where the bundle lies unpacked and checked on the controller.
    type: path
    required: true
  needed:
    description: The sources of the host's components, from the filter C(uplab_sources).
    type: list
    elements: dict
    default: []
  packages:
    description: The Debian packages that the components need.
    type: list
    elements: str
    default: []
  packages_by_release:
    description: Further ones, by the number of the Debian release that has them.
    type: dict
    default: {}
  step:
    description: What the action plugin asks for.
    type: str
    choices: [compare, place, finish]
    default: compare
  items:
    description: What the bundle holds, from the action plugin.
    type: list
    elements: dict
    default: []
  files:
    description: The files of O(archive), from the action plugin.
    type: list
    elements: dict
    default: []
  archive:
    description: A tar that the action plugin brought to the host.
    type: path
author:
  - The uplab authors
"""

EXAMPLES = r"""
- name: Bring what is missing
  uplab_bundle:
    root: /opt/uplab
    folder: /root/uplab/.uplab/bundle/open
    needed: "{{ ['bpftime'] | uplab_sources(uplab_pins, {}) }}"
    packages: [git, make]
"""

RETURN = r"""
lacks:
  description: What neither the bundle nor the host has, so that a network is needed for it.
  returned: success
  type: list
  elements: str
files:
  description: The files that have to come, or came.
  returned: success
  type: list
  elements: dict
bytes:
  description: Their size.
  returned: success
  type: int
wanted:
  description: The places of the items that the host uses, in the list of all items.
  returned: by the step compare
  type: list
  elements: int
"""


def compare(root: Path, parameters: dict[str, Any]) -> dict[str, Any]:
    """What has to come, and what cannot; raises StoreError."""
    items = parameters["items"]
    wanted, lacks = [], []
    for need in parameters["needed"]:
        found = chosen(items, need)
        wanted += [item for item in found if item not in wanted]
        if not found:
            lacks.append(described(need))
    release = host_release()["codename"]
    names = sorted({*parameters["packages"], *for_release(parameters["packages_by_release"])})
    for_apt, lacking = packages_of(items, release, names, dpkg_versions())
    if lacking:
        lacks.append(f"Debian packages for {release}: {', '.join(lacking)}")
    wanted += for_apt
    files = [file for item in wanted for file in missing_files(root, item)]
    return {
        "lacks": lacks,
        "files": files,
        "bytes": sum(file["bytes"] for file in files),
        "wanted": [items.index(item) for item in wanted],
        "changed": bool(files),
    }


def act(parameters: dict[str, Any], check: bool) -> dict[str, Any]:
    """Do one step; returns the module's result; raises StoreError and OSError."""
    root = absolute_root(parameters["root"])
    if parameters["step"] == "compare":
        return compare(root, parameters)
    if check:
        return {"changed": False}
    if parameters["step"] == "place":
        place(root, Path(parameters["archive"]), parameters["files"])
        return {"changed": True}
    return {"changed": finish(root, parameters["items"])}


def main() -> None:
    """Run as an Ansible module."""
    dicts = {"type": "list", "elements": "dict", "default": []}
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "folder": {"type": "path", "required": True},
            "needed": dicts,
            "packages": {"type": "list", "elements": "str", "default": []},
            "packages_by_release": {"type": "dict", "default": {}},
            "step": {
                "type": "str",
                "choices": ["compare", "place", "finish"],
                "default": "compare",
            },
            "items": dicts,
            "files": dicts,
            "archive": {"type": "path"},
        },
        supports_check_mode=True,
    )
    with reported(module):
        module.exit_json(**act(module.params, module.check_mode))


if __name__ == "__main__":
    main()
