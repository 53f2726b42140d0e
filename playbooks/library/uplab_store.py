#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: uplab's store on a host."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.uplab_host import (
    RECIPE_OPTIONS,
    SCHEMA,
    Place,
    StoreError,
    absolute_root,
    artifact,
    damages,
    differences,
    dpkg_versions,
    find_executable,
    hash12,
    inputs_of,
    link_atomically,
    points_to,
    pretty,
    probe,
    read_json,
    reported,
    run_for_text,
    utc_now,
    write_atomically,
)

DOCUMENTATION = r"""
---
module: uplab_store
short_description: Look after uplab's store of versioned builds on a host
version_added: "0.1.0"
description:
  - Keeps the directories below O(root), looks for finished builds, registers files of Debian
    packages in place, and writes the manifest that says what a host holds.
  - Builds themselves are made by the module C(uplab_build).
options:
  root:
    description: The root of everything that uplab keeps on the host; an absolute path.
    type: path
    required: true
  state:
    description:
      - V(layout) gives each of O(paths) its mode, and makes those that are directories.
      - V(probed) looks whether the build that O(recipe) describes is finished, intact and linked.
        It never changes anything.
      - V(registered) records files of a Debian package where they lie and links their prefix.
      - V(adopted) records O(files) that somebody put on the host, and makes an entry of the store
        that links to them.
      - V(compared) reads again what the records of current components say of files that were not
        built into the store, and says what differs. It never changes anything.
      - V(manifest) writes C(manifest.json) from the records of all current components, and only
        if something besides its time differs.
    type: str
    choices: [layout, probed, registered, adopted, compared, manifest]
    required: true
  paths:
    description:
      - For V(layout), each path below O(root) with its octal mode.
      - A path that ends with a slash is a directory and is made where it is missing.
      - Any other path is a file that must be there already.
    type: dict
    default: {}
  component:
    description: The component, for V(probed), V(registered) and V(adopted).
    type: str
  source_sha256:
    description: The digest of the component's sources, from the lookup C(uplab_source).
    type: str
  recipe:
    description: How the component is built; see the module C(uplab_build).
    type: dict
  copied:
    description:
      - For V(probed), what is known of a build that came from another host, with its C(hash).
      - It was made with that host's tools, so that only the sources and the recipe are compared.
    type: dict
    default: {}
  executables:
    description:
      - For V(registered), names or paths of the commands to record.
      - Links are followed; the prefix is the directory above the first one's C(bin).
    type: list
    elements: str
    default: []
  origin:
    description: For V(registered), whose package it is; for the record.
    type: str
    choices: [distro, upstream]
    default: distro
  files:
    description: For V(adopted), each artifact's name in the store with the path of the file.
    type: dict
    default: {}
  hint:
    description: For V(adopted), what to say where a file is missing.
    type: str
    default: ""
  components:
    description:
      - For V(manifest), the components that the host wants.  The links of all others are removed;
        their builds stay in the store.  Without it every link stays.
    type: list
    elements: str
  left_out:
    description:
      - For V(manifest), the components that the host does not get because what they would have
        built was copied from another host.
    type: list
    elements: str
    default: []
  digest:
    description: For V(manifest), the controller's digest of everything that it converged to.
    type: str
  pins:
    description: For V(manifest), the pins; their Debian packages get their exact versions.
    type: dict
    default: {}
author:
  - The uplab authors
"""

EXAMPLES = r"""
- name: Look for the finished build
  uplab_store:
    root: /opt/uplab
    state: probed
    component: servers
    source_sha256: "{{ lookup('uplab_source', servers_source) }}"
    recipe: "{{ servers_recipe }}"
  register: servers_probe

- name: Record the distribution's wrk
  uplab_store:
    root: /opt/uplab
    state: registered
    component: wrk
    executables: [wrk]
"""

RETURN = r"""
hash:
  description: The first 12 hex digits of the hash of the component's inputs; null if unknown yet.
  returned: for C(probed) and C(registered)
  type: str
ready:
  description: Whether the build is finished, intact and linked.
  returned: for C(probed)
  type: bool
damaged:
  description: Every artifact that is not what its record says.
  returned: for C(probed)
  type: list
  elements: str
missing:
  description: Every tool and package that the build needs and the host lacks.
  returned: for C(probed)
  type: list
  elements: str
last_build_s:
  description: How long the newest build of the component took here, in seconds; null if unknown.
  returned: for C(probed)
  type: float
compared:
  description: For each component the number of C(files), and C(differs), those not as recorded.
  returned: for C(compared)
  type: dict
record:
  description: The record of the component.
  returned: for C(registered)
  type: dict
component:
  description: The component.
  returned: for C(probed), C(registered) and C(adopted)
  type: str
paths:
  description: What was written or removed, in check mode what would be.
  returned: for C(layout), C(registered), C(adopted) and C(manifest)
  type: list
  elements: str
"""


def layout(root: Path, paths: dict[str, Any], check: bool) -> dict[str, Any]:
    """Give every path its mode, make missing directories; returns the module's result."""
    before: list[str] = []
    after: list[str] = []
    changed: list[str] = []
    for name, mode_text in sorted(paths.items()):
        path = root / name
        mode = int(str(mode_text), 8)
        seen = mode_of(path, directory=name.endswith("/"))
        if seen == mode:
            continue
        before.append(f"{path} {'absent' if seen is None else f'{seen:04o}'}")
        after.append(f"{path} {mode:04o}")
        changed.append(str(path))
        if check:
            continue
        if seen is None:
            if not name.endswith("/"):
                raise StoreError(f"{path} is missing and is not a directory that could be made")
            path.mkdir(parents=True)
        path.chmod(mode)
    return {"changed": bool(after), "diff": listing(before, after), "paths": changed}


def mode_of(path: Path, *, directory: bool) -> int | None:
    """The permission bits of a path, None where it is absent; raises StoreError on another kind."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode) is not directory or stat.S_ISLNK(status.st_mode):
        raise StoreError(f"{path} is in the way: wanted {'a directory' if directory else 'a file'}")
    return stat.S_IMODE(status.st_mode)


def probe_copied(root: Path, parameters: dict[str, Any]) -> dict[str, Any]:
    """Look at a build that came from another host; changes nothing.

    Its hash is of that host's tools.  Raises StoreError where it is of other sources than these,
    or made in another way.
    """
    component, recipe = parameters["component"], parameters["recipe"]
    place = Place(root, component, parameters["copied"]["hash"])
    record = read_json(place.record)
    damaged = damages(record) if record else []
    if record:
        wanted, _ = inputs_of(root, component, parameters["source_sha256"], without_tools(recipe))
        parts = ("flags", "source_sha256", "sources")
        other = [part for part in parts if record["inputs"].get(part) != wanted.get(part)]
        if other:
            raise StoreError(
                f"{component}: {place.prefix} was copied and is not what this host's variables "
                f"ask for: its {' and '.join(other)} differ. Run lab.setup without --from"
            )
    return {
        "hash": place.hash12,
        "prefix": str(place.prefix),
        # It comes before this; in check mode it would have.
        "ready": not damaged,
        "damaged": damaged,
        "missing": [],
        "component": component,
        "last_build_s": None,
    }


def without_tools(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe that asks this host for nothing."""
    return {**recipe, "tools": {}, "packages": [], "kernel_btf": False}


def listing(before: list[str], after: list[str]) -> dict[str, str]:
    """A diff as ``--diff`` shows it, one item a line."""
    return {"before": "".join(f"{x}\n" for x in before), "after": "".join(f"{x}\n" for x in after)}


def register(
    root: Path, component: str, executables: list[str], check: bool, origin: str = "distro"
) -> dict[str, Any]:
    """Record the files of a Debian package where they lie; returns the module's result."""
    found = {name: find_executable(name) for name in executables}
    missing = [name for name, path in found.items() if path is None]
    if missing and check:
        text = f"{component}: registered once its packages are installed\n"
        paths = [str(root / "current" / component)]
        diff = {"before": "", "after": text}
        return {"changed": True, "hash": None, "diff": diff, "paths": paths}
    if missing:
        raise StoreError(f"{component}: no command {', '.join(missing)} on this host")
    record = in_place_record(component, [path for path in found.values() if path], origin)
    place = Place(root, component, record["hash"])
    known = read_json(place.record)
    if known is not None:
        refuse_damage(component, known)
    return settle(place, record, known, check)


def settle(
    place: Place, record: dict[str, Any], known: dict[str, Any] | None, check: bool
) -> dict[str, Any]:
    """Write the record of files in place and link their prefix; returns the module's result."""
    prefix = Path(record["prefix"])
    if known is not None:
        # When it was recorded is not a difference.
        record["built_utc"] = known.get("built_utc")
    stale = other_in_place_records(place, prefix)
    changed = known != record or not points_to(place.current, prefix) or bool(stale)
    if changed and not check:
        # A record of files that a newer package has replaced describes nothing any more.
        for path in stale:
            path.unlink()
        write_atomically(place.record, pretty(record))
        link_atomically(place.current, prefix)
    diff = {"before": pretty(known) if known else "", "after": pretty(record)}
    paths = [str(path) for path in (place.record, place.current)] if changed else []
    result = {"changed": changed, "hash": record["hash"], "record": record, "diff": diff}
    return {**result, "paths": paths}


def in_place_record(component: str, paths: list[Path], origin: str) -> dict[str, Any]:
    """The record of files that a Debian package owns; raises StoreError where none owns them."""
    prefix = paths[0].parent.parent
    owners = {str(path): owner_of(path) for path in paths}
    versions = dpkg_versions()
    packages = {name: versions[name] for name in owners.values()}
    inputs = {
        "component": component,
        "source": origin,
        "packages": packages,
        "executables": sorted(owners),
        "architecture": os.uname().machine,
    }
    return {
        "schema": SCHEMA,
        "component": component,
        "hash": hash12(inputs),
        "source": origin,
        "version": packages[owners[str(paths[0])]],
        "prefix": str(prefix),
        "inputs": inputs,
        "artifacts": {os.path.relpath(path, prefix): artifact(path) for path in paths},
        "built_utc": utc_now(),
        "build_s": 0.0,
    }


def adopt(
    root: Path, component: str, files: dict[str, str], hint: str, check: bool
) -> dict[str, Any]:
    """Record files that somebody put on the host; returns the module's result; raises StoreError.

    Their entry in the store is a directory of links, so that an adopted component looks like one
    that was built.  Its hash covers the files' contents: other contents make another entry.
    """
    relative = [path for path in files.values() if not Path(path).is_absolute()]
    if relative:
        raise StoreError(
            f"{component}: {', '.join(relative)}: not an absolute path. {hint}".strip()
        )
    missing = [path for path in files.values() if not Path(path).is_file()]
    if missing:
        raise StoreError(f"{component}: {', '.join(missing)}: not on this host. {hint}".strip())
    found = {name: artifact(Path(path)) for name, path in files.items()}
    inputs = {
        "component": component,
        "source": "path",
        "files": {name: [path, found[name]["sha256"]] for name, path in files.items()},
        "architecture": os.uname().machine,
    }
    place = Place(root, component, hash12(inputs))
    record = {
        "schema": SCHEMA,
        "component": component,
        "hash": place.hash12,
        "source": "path",
        "version": f"path-{place.hash12}",
        "prefix": str(place.prefix),
        "inputs": inputs,
        "artifacts": found,
        "built_utc": utc_now(),
        "build_s": 0.0,
    }
    links = {place.prefix / name: Path(path) for name, path in files.items()}
    known = read_json(place.record)
    if not all(points_to(link, target) for link, target in links.items()):
        known = None
        if not check:
            place.record.unlink(missing_ok=True)
            for link, target in links.items():
                link.parent.mkdir(parents=True, exist_ok=True)
                link_atomically(link, target)
    return settle(place, record, known, check)


def owner_of(path: Path) -> str:
    """The Debian package that owns a file; raises StoreError."""
    # Where /bin is a link to /usr/bin, a package may still list its files below /bin.
    names = [str(path), str(path).removeprefix("/usr")]
    for name in names:
        try:
            answer = run_for_text(["dpkg-query", "--search", name])
        except StoreError:
            continue
        return answer.split(": ", 1)[0].split(",")[0].split(":")[0].strip()
    raise StoreError(f"{path} belongs to no Debian package")


def refuse_damage(component: str, record: dict[str, Any]) -> None:
    """Raise StoreError where a package's file changed although its version did not."""
    found = damages(record)
    if not found:
        return
    names = " ".join(record["inputs"]["packages"])
    raise StoreError(
        f"{component}: {'; '.join(found)}. "
        f"The package's version is the same, so the file was altered. "
        f"Run: apt-get install --reinstall {names}"
    )


def other_in_place_records(place: Place, prefix: Path) -> list[Path]:
    """Records of earlier versions of the same files."""
    paths = sorted(place.store.glob(f"{place.component}-*.json"))
    others = [path for path in paths if path != place.record]
    return [path for path in others if (read_json(path) or {}).get("prefix") == str(prefix)]


def manifest(
    root: Path,
    digest: str | None,
    pins: dict[str, Any],
    check: bool,
    components: list[str] | None = None,
    left_out: list[str] | None = None,
) -> dict[str, Any]:
    """Write what the host holds now; returns the module's result.

    Links of components that the host does not want any more go first; without a list all stay.
    """
    versions = dpkg_versions()
    unwanted = unwanted_links(root, components)
    for link in [] if check else unwanted:
        link.unlink()
    added = (read_json(root / "packages.json") or {}).get("added", [])
    wanted = {
        "schema": SCHEMA,
        "digest": digest,
        "pins": {name: resolved(pin, versions) for name, pin in pins.items()},
        "components": current_records(root, without={link.name for link in unwanted}),
        "left_out": sorted(left_out or []),
        "packages_added": sorted(name for name in added if name in versions),
    }
    path = root / "manifest.json"
    known = read_json(path) or {}
    written_utc = known.pop("written_utc", None)
    changed = known != wanted or written_utc is None or bool(unwanted)
    if changed and not check:
        write_atomically(path, pretty({**wanted, "written_utc": utc_now()}))
    diff = {"before": pretty(known) if known else "", "after": pretty(wanted)}
    paths = [str(each) for each in (path, *unwanted)] if changed else []
    return {"changed": changed, "diff": diff, "paths": paths}


def unwanted_links(root: Path, components: list[str] | None) -> list[Path]:
    """The links in ``current`` to components that are not named; none where nothing is named."""
    if components is None:
        return []
    links = sorted((root / "current").glob("*"))
    return [link for link in links if link.is_symlink() and link.name not in components]


def resolved(pin: Any, versions: dict[str, str]) -> Any:
    """A pin with the exact version of each of its Debian packages; null where it is missing."""
    if not isinstance(pin, dict) or not isinstance(pin.get("packages"), list):
        return pin
    return {**pin, "packages": {name: versions.get(name) for name in pin["packages"]}}


def current_records(root: Path, without: set[str]) -> dict[str, Any]:
    """The record of every component that ``current`` links to, but for those ``without``."""
    records: dict[str, Any] = {}
    for link in sorted((root / "current").glob("*")):
        if link.name in without:
            continue
        target = str(link.readlink())
        for path in sorted((root / "store").glob(f"{link.name}-*.json")):
            record = read_json(path)
            if record and record.get("prefix") == target:
                records[link.name] = record
    return records


def compared(root: Path) -> dict[str, Any]:
    """Each current component whose files lie elsewhere, beside what its record says of them."""
    result = {}
    for name, record in current_records(root, without=set()).items():
        prefix, built = Path(record["prefix"]), record["source"] != "path"
        if built and prefix.parent == root / "store":
            continue
        known = record["artifacts"]
        seen = {file: artifact(prefix / file) for file in known if (prefix / file).is_file()}
        result[name] = {"files": len(known), "differs": differences(known, seen)}
    return result


def act(parameters: dict[str, Any], check: bool) -> dict[str, Any]:
    """Do what the task asks; returns the module's result; raises StoreError and OSError."""
    root = absolute_root(parameters["root"])
    state = parameters["state"]
    if state == "layout":
        return layout(root, parameters["paths"], check)
    if state == "probed" and parameters["copied"]:
        return {"changed": False, **probe_copied(root, parameters)}
    if state == "probed":
        found = probe(
            root, parameters["component"], parameters["source_sha256"], parameters["recipe"]
        )
        return {"changed": False, **found.as_result()}
    if state == "compared":
        return {"changed": False, "compared": compared(root)}
    component = parameters["component"]
    if state == "registered":
        words = parameters["executables"], check, parameters["origin"]
        return {"component": component, **register(root, component, *words)}
    if state == "adopted":
        words = parameters["files"], parameters["hint"], check
        return {"component": component, **adopt(root, component, *words)}
    digest, pins, components = (parameters[key] for key in ("digest", "pins", "components"))
    return manifest(root, digest, pins, check, components, parameters["left_out"])


def main() -> None:
    """Run as an Ansible module."""
    recipe_options = {
        name: {**option, "required": False} for name, option in RECIPE_OPTIONS.items()
    }
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "state": {
                "type": "str",
                "choices": ["layout", "probed", "registered", "adopted", "compared", "manifest"],
                "required": True,
            },
            "origin": {"type": "str", "choices": ["distro", "upstream"], "default": "distro"},
            "files": {"type": "dict", "default": {}},
            "hint": {"type": "str", "default": ""},
            "components": {"type": "list", "elements": "str"},
            "copied": {"type": "dict", "default": {}},
            "left_out": {"type": "list", "elements": "str", "default": []},
            "paths": {"type": "dict", "default": {}},
            "executables": {"type": "list", "elements": "str", "default": []},
            "digest": {"type": "str"},
            "pins": {"type": "dict", "default": {}},
            **recipe_options,
        },
        required_if=[
            ("state", "layout", ["paths"]),
            ("state", "probed", ["component", "recipe"]),
            ("state", "registered", ["component", "executables"]),
            ("state", "adopted", ["component", "files"]),
        ],
        supports_check_mode=True,
    )
    with reported(module):
        result = act(module.params, module.check_mode)
        for name, found in result.get("compared", {}).items():
            for one in found["differs"]:
                # For whoever runs the playbook by hand.
                module.warn(f"{name}: {one['file']} is not what its record says")
        module.exit_json(**result)


if __name__ == "__main__":
    main()
