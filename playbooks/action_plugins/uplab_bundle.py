# SPDX-License-Identifier: Apache-2.0
"""Ansible action plugin: the controller's half of ``uplab_bundle``, which carries the files.

What a host lacks goes there in pieces, each a tar of some megabytes: no part of a bundle is ever
twice on the host, and after each piece it can be said how long the rest takes.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

MIB = 1 << 20
PIECE_BYTES = 64 * MIB
PIECE_FILES = 200


def pieces(files: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The files in groups that are no larger than a piece, a file that is larger alone."""
    group: list[dict[str, Any]] = []
    size = 0
    for file in files:
        if group and (size + file["bytes"] > PIECE_BYTES or len(group) == PIECE_FILES):
            yield group
            group, size = [], 0
        group.append(file)
        size += file["bytes"]
    if group:
        yield group


def pack(folder: Path, files: list[dict[str, Any]], out: Path) -> None:
    """A tar of files of the unpacked bundle, under their names there."""
    with tarfile.open(out, "w") as tar:
        for file in files:
            member = tarfile.TarInfo(file["path"])
            member.size = file["bytes"]
            with (folder / file["path"]).open("rb") as content:
                tar.addfile(member, content)


def left(done: int, total: int, spent_s: float) -> str:
    """How far the copying is, for a person."""
    remaining_s = spent_s * (total - done) / max(done, 1)
    return f"{done / MIB:.0f} of {total / MIB:.0f} MiB copied, about {remaining_s:.0f} s left"


def say(variables: dict[str, Any], text: str) -> None:
    """Show a line about a host."""
    Display().display(f"bundle for {variables['inventory_hostname']}: {text}")


class ActionModule(ActionBase):
    """Compares, says what the bundle lacks, copies, has the host finish it."""

    _requires_connection = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The result of the whole."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        folder = Path(self._task.args["folder"])
        items = json.loads((folder / "items.json").read_text(encoding="utf-8"))
        found = self._step(variables, step="compare", items=items)
        if found.get("failed"):
            return result | found
        wanted = [items[place] for place in found.pop("wanted")]
        self._say_what_lacks(variables, found)
        if not self._task.check_mode:
            done = self._copy(variables, folder, found["files"])
            done = done or self._step(variables, step="finish", items=wanted)
            if done.get("failed"):
                return result | done
            found["changed"] = bool(found["files"]) or bool(done["changed"])
        found["files"] = [file["path"] for file in found["files"]]
        return result | found

    def _step(self, variables: dict[str, Any], **more: Any) -> dict[str, Any]:
        """Let the module on the host do one step."""
        done: dict[str, Any] = self._execute_module(
            module_name="uplab_bundle",
            module_args={**self._task.args, **more},
            task_vars=variables,
        )
        return done

    def _say_what_lacks(self, variables: dict[str, Any], found: dict[str, Any]) -> None:
        for text in found["lacks"]:
            say(variables, f"it lacks what the network is needed for: {text}")
        count, size = len(found["files"]), found["bytes"] / MIB
        say(variables, f"{count} files are missing there, {size:.0f} MiB")

    def _copy(
        self, variables: dict[str, Any], folder: Path, files: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """Bring the files there; out: nothing, or the result of the step that failed."""
        total, done = sum(file["bytes"] for file in files), 0
        began_s = time.monotonic()
        for group in pieces(files):
            placed = self._copy_piece(variables, folder, group)
            if placed.get("failed"):
                return placed
            done += sum(file["bytes"] for file in group)
            if done < total:
                say(variables, left(done, total, time.monotonic() - began_s))
        return {}

    def _copy_piece(
        self, variables: dict[str, Any], folder: Path, group: list[dict[str, Any]]
    ) -> dict[str, Any]:
        remote = self._make_tmp_path()
        try:
            with tempfile.NamedTemporaryFile(suffix=".tar") as local:
                pack(folder, group, Path(local.name))
                there = self._transfer_file(
                    local.name, self._connection._shell.join_path(remote, "piece.tar")
                )
            self._fixup_perms2((remote, there))
            return self._step(variables, step="place", files=group, archive=there)
        finally:
            self._remove_tmp_path(remote)
