"""The adapters: folders that teach uplab a server, a tracer or a load. No name of one is here."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from uplab import yamlfile
from uplab.errors import UsageError
from uplab.hostside.spec import SCHEMA, Adapters, LoadAdapter, ServerAdapter, TracerAdapter
from uplab.hostside.templates import placeholders

Adapter = ServerAdapter | TracerAdapter | LoadAdapter
AdapterT = TypeVar("AdapterT", ServerAdapter, TracerAdapter, LoadAdapter)

#: The kinds, with the folder that holds them and the model that their adapter.yml must fit.
KINDS: dict[str, tuple[str, type[Any]]] = {
    "server": ("servers", ServerAdapter),
    "tracer": ("tracers", TracerAdapter),
    "load": ("loads", LoadAdapter),
}
_FILE = "adapter.yml"
#: What the arguments of a userspace mode may name beside the usual.
USERSPACE_NAMES = {"preload", "map_kind", "userspace_sites", "kernel_sites", "probed_sites"}


#: It becomes a part of folders' names, here and on the host.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}")


@dataclass(frozen=True)
class Registry:
    """All adapters that a matrix may name, and the folder that each came from."""

    servers: dict[str, ServerAdapter] = field(default_factory=dict)
    tracers: dict[str, TracerAdapter] = field(default_factory=dict)
    loads: dict[str, LoadAdapter] = field(default_factory=dict)
    folders: dict[tuple[str, str], Path] = field(default_factory=dict)

    def subset(
        self, servers: Iterable[str], tracers: Iterable[str], loads: Iterable[str]
    ) -> Adapters:
        """The adapters of a plan."""
        return Adapters(
            servers={name: self.servers[name] for name in sorted(set(servers))},
            tracers={name: self.tracers[name] for name in sorted(set(tracers))},
            loads={name: self.loads[name] for name in sorted(set(loads))},
        )

    def travelling(self) -> Iterator[tuple[str, str, str, Path]]:
        """What travels to a host: kind (as its folder), adapter, file and where it lies here."""
        tables: dict[str, Mapping[str, Adapter]] = {
            "servers": self.servers,
            "tracers": self.tracers,
            "loads": self.loads,
        }
        for kind, table in tables.items():
            for name, adapter in sorted(table.items()):
                for file in sorted(files_of(adapter)):
                    yield kind, name, file, self.folders[kind, name] / file


def is_name(name: str) -> bool:
    """Whether an adapter may be called so: it becomes a part of folders' names."""
    return _NAME.fullmatch(name) is not None


def files_of(adapter: Adapter) -> set[str]:
    """The files beside an adapter.yml that it needs on the host."""
    return {*adapter.files, *([adapter.python] if isinstance(adapter, LoadAdapter) else [])}


def load(roots: Iterable[Path]) -> Registry:
    """Read every adapter below folders that hold ``servers/``, ``tracers/``, ``loads/``.

    Args:
        roots: the project first, then a matrix's own folders.

    Raises:
        UsageError: an adapter.yml that does not fit, two adapters of one kind and name.
    """
    registry = Registry()
    tables: dict[str, dict[str, Any]] = {
        "server": registry.servers,
        "tracer": registry.tracers,
        "load": registry.loads,
    }
    for root in roots:
        if not root.is_dir():
            raise UsageError(f"{root}: no such folder of adapters")
        for kind, (folder, model) in KINDS.items():
            for path in sorted((root / folder).glob(f"*/{_FILE}")):
                adapter = read(path, kind, model)
                if adapter.name in tables[kind]:
                    first = registry.folders[folder, adapter.name]
                    raise UsageError(f"{path}: {kind} {adapter.name} is already in {first}")
                tables[kind][adapter.name] = adapter
                registry.folders[folder, adapter.name] = path.parent
    return registry


def read(path: Path, kind: str, model: type[AdapterT]) -> AdapterT:
    """Read and check one adapter.yml.

    Raises:
        UsageError: with file, line, field and what is allowed.
    """
    document = yamlfile.read(path)
    adapter: AdapterT = yamlfile.validate(document, model)
    problems = []
    if adapter.schema != SCHEMA:
        problems.append(f"{document.where(('schema',))}: schema: allowed is {SCHEMA}")
    if adapter.kind != kind or adapter.name != path.parent.name:
        problems.append(
            f"{document.where(('name',))}: name: this folder must hold {kind} {path.parent.name}"
        )
    if not is_name(adapter.name):
        problems.append(
            f"{document.where(('name',))}: name: allowed are letters, digits, '.', '_' and '-', "
            f"found {adapter.name!r}"
        )
    problems.extend(
        f"{document.where(place)}: {yamlfile.dotted(place)}: {{{name}}} has no value here; "
        f"there are {', '.join(sorted(known))}"
        for place, template, known in _templates(adapter)
        for name in sorted(placeholders(template) - known)
    )
    problems.extend(
        f"{document.where(('files',))}: files: {name} is not in {path.parent}"
        for name in sorted(files_of(adapter))
        if not (path.parent / name).is_file()
    )
    if problems:
        raise UsageError("\n".join(problems))
    return adapter


def _templates(
    adapter: Adapter,
) -> list[tuple[yamlfile.Place, str, set[str]]]:
    """Each template of an adapter with its place and the names that it may use there."""
    programs = {"root", *adapter.programs}
    found: list[tuple[yamlfile.Place, str, set[str]]] = [
        (("programs", name, "path"), ref.path, {"root"})
        for name, ref in adapter.programs.items()
        if ref.path is not None
    ]
    if isinstance(adapter, ServerAdapter):
        known = programs | set(adapter.parameters)
        known |= {"body_bytes", "adapter", "scratch", "address"}
        found.append((("url",), adapter.url, known))
    elif isinstance(adapter, TracerAdapter):
        known = programs | {"pid", "body_bytes", "adapter"}
        in_userspace = known | USERSPACE_NAMES
        found += [(("hit_cost", i), text, programs) for i, text in enumerate(adapter.hit_cost)]
        of_bpftime = programs | {"preload", "bpftime"}
        found += [
            (("userspace_hit_cost", i), text, of_bpftime)
            for i, text in enumerate(adapter.userspace_hit_cost)
        ]
        alone = programs | {"adapter"}
        found += [(("self_test", i), text, alone) for i, text in enumerate(adapter.self_test)]
        found += [
            ((name,), text, {"pid"})
            for name in ("event_line", "lost_line")
            if (text := getattr(adapter, name)) is not None
        ]
        found += [
            (
                ("modes", mode, name, index),
                text,
                in_userspace if spec.placement == "userspace" else known,
            )
            for mode, spec in adapter.modes.items()
            for name, arguments in (("args", spec.args), ("daemon_args", spec.daemon_args))
            for index, text in enumerate(arguments)
        ]
    else:
        known = programs | set(adapter.parameters) | {"url", "scratch", "adapter", "body_bytes"}
    found += [
        (("argv", index), text, known)
        for index, text in enumerate(adapter.argv)
        # As a whole argument it stands for all arguments of the mode.
        if not (isinstance(adapter, TracerAdapter) and text == "{mode_args}")
    ]
    return found + [(("env", name), text, known) for name, text in adapter.env.items()]


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean X?`` or ``.``: the end of a sentence about an unknown name."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]}?" if close else "."


def json_schema(kind: str) -> dict[str, Any]:
    """The JSON Schema of a kind's adapter.yml (published in ``docs/reference``)."""
    from pydantic import TypeAdapter

    schema: dict[str, Any] = TypeAdapter(KINDS[kind][1]).json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
