#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: build components of uplab and put them into the store, whole or not at all."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.uplab_builder import Builder
from ansible.module_utils.uplab_commands import Commands, Stopped
from ansible.module_utils.uplab_host import RECIPE_OPTIONS, StoreError, absolute_root, reason
from ansible.module_utils.uplab_sources import SITE_OPTIONS
from ansible.module_utils.uplab_together import (
    Interrupted,
    Slots,
    all_processors,
    free_slots,
    run_together,
)

DOCUMENTATION = r"""
---
module: uplab_build
short_description: Build components from their sources into uplab's store
version_added: "0.1.0"
description:
  - Unpacks or fetches the sources beside the store, runs the recipe's commands there, moves the
    finished prefix into the store by one rename, writes its record and points C(current) to it.
  - Sources from elsewhere are repositories of git at a full commit and archives with a sha256.
    They are kept in C(cache) below O(root), so that building again needs no network.
  - A build that fails, is killed or runs into a full disk leaves no record, and a build without a
    record does not count as finished. What a killed build left is removed by the next one.
  - The output of the commands is kept in C(log/<component>.log) below O(root).
  - Several components are built at the same time, as far as processors and memory go. If one
    fails the others go on to their end, and the module fails then, naming each.
  - One build of a component at a time; the lock is held by the compilers too, so that it lasts as
    long as anything writes there. However the module ends, its compilers end with it.
options:
  root:
    description: The root of everything that uplab keeps on the host; an absolute path.
    type: path
    required: true
  rebuild:
    description:
      - Empty builds what is missing or damaged.
      - V(replace) builds the rest again too, and the new build takes the old one's place.
      - V(verify) builds all of it again, in check mode too, compares what comes out with the
        records and leaves the store as it is. Caches of compilers are left out by both.
    type: str
    choices: ["", verify, replace]
    default: ""
  jobs:
    description:
      - How many compilers may run at once, over all builds together.
      - By default one for each processor, fewer where less than 1 GiB of memory is free for each.
    type: int
  builds:
    description: What to build. Those first in the list begin first.
    type: list
    elements: dict
    required: true
    suboptions:
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
            description:
              - Where all archives lie under their own names; otherwise each at its address.
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
            this build, V({root}) for O(root), V({cache}) for the directory of caches and V({jobs})
            for the number of compilers that may run at once, over all builds together.
          - Make and cargo are told by the environment how many they may start; without a C(-j) of
            their own they share the processors with the other builds.
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
    builds:
      - component: servers
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
builds:
  description:
    - For each component C(changed), C(hash) (the first 12 hex digits of the hash of its inputs),
      C(log) (where the output of its commands is kept on the host), C(build_s) if it was built,
      and C(failed) with the reason if it could not be.
    - With O(rebuild=verify) also C(compared) with the number of C(files), C(differs) (each file
      that did not come out as recorded) and C(damaged) (what of the store is not as recorded).
  returned: always
  type: dict
"""


def attempt(builder: Builder, wanted: dict[str, Any]) -> dict[str, Any]:
    """Build one component; its result, with ``failed`` where it did not work."""
    component = wanted["component"]
    result: dict[str, Any] = {"changed": False, "log": str(builder.log_of(component))}
    try:
        return {**result, **builder.build(wanted)}
    except StoreError as error:
        return {**result, "failed": str(error)}
    except Stopped:
        return {**result, "failed": f"{component}: it was ended"}
    except OSError as error:
        return {**result, "failed": f"{component}: {reason(error)}"}


def act(parameters: dict[str, Any], check: bool) -> dict[str, Any]:
    """Build what is missing and link it; returns the module's result.

    Raises:
        StoreError: the root cannot be one.
        Interrupted: something from outside ended all builds.
    """
    root = absolute_root(parameters["root"])
    builds, rebuild = parameters["builds"], parameters.get("rebuild") or ""
    commands = Commands()
    with all_processors(), Slots(parameters.get("jobs") or free_slots(), len(builds)) as slots:
        builder = Builder(root, rebuild, check, commands, slots)
        answers = run_together(builds, lambda wanted: attempt(builder, wanted), slots, commands)
    names = [wanted["component"] for wanted in builds]
    changed = [answer for answer in answers if answer["changed"]]
    failed = [answer["failed"] for answer in answers if "failed" in answer]
    return {
        "changed": bool(changed),
        "builds": dict(zip(names, answers, strict=True)),
        "diff": {
            "before": "",
            "after": "".join(f"{answer.pop('after', '')}\n" for answer in changed),
        },
        **({"failed": True, "msg": "\n".join(failed)} if failed else {}),
    }


def warnings_of(builds: dict[str, Any]) -> list[str]:
    """What whoever runs the playbook by hand has to know of a comparison."""
    return [
        f"{name}: built again, {one['file']} is not the same: sha256 {one['old_sha256']} in the "
        f"store, {one['new_sha256']} now"
        for name, answer in builds.items()
        for one in answer.get("compared", {}).get("differs", [])
    ]


def main() -> None:
    """Run as an Ansible module."""
    build_options = {"archive": {"type": "str"}, **SITE_OPTIONS, **RECIPE_OPTIONS}
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "rebuild": {"type": "str", "choices": ["", "verify", "replace"], "default": ""},
            "jobs": {"type": "int"},
            "builds": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": build_options,
                "required_together": [("archive", "source_sha256")],
            },
        },
        supports_check_mode=True,
    )
    names = ", ".join(wanted["component"] for wanted in module.params["builds"])
    try:
        result = act(module.params, module.check_mode)
    except StoreError as error:
        module.fail_json(msg=str(error))
    except Interrupted as error:
        module.fail_json(msg=f"{names}: ended by {error}; nothing half built is left")
    except OSError as error:
        module.fail_json(msg=f"{names}: {reason(error)}")
    for warning in warnings_of(result["builds"]):
        module.warn(warning)
    if "failed" in result:
        module.fail_json(**result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
