"""A matrix: the factors of an experiment, as a validated model, and its cells."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from uplab import adapters, yamlfile
from uplab.adapters import Registry
from uplab.errors import UsageError
from uplab.hostside.spec import (
    UNTRACED_MODES,
    Cell,
    FileRef,
    Limits,
    Loader,
    MapKind,
    Mode,
    Parameter,
    Repeat,
    RuntimeOptions,
    TracerAdapter,
)

#: What ``--only`` can choose by: a name for the user, and the cell's field.
ONLY_FACTORS = ("server", "mode", "tracer", "body_bytes", "load", "placement", "loader")

Positive = Annotated[int, Field(ge=1, le=1 << 30)]
#: bpftime's shared memory holds its programs, maps and events.
ShmMb = Annotated[int, Field(ge=20, le=4096)]
#: An installation of bpftime on the host; empty, the store's own.
Prefix = Annotated[str, Field(pattern=r"^(/[^/]+)*$")]
#: A program on the host; braces would be a template's.
Build = Annotated[str, Field(pattern=r"^(/[^/{}]+)+$")]
#: Which of an adapter's programs a build stands in for.
_BUILD_OF = "program"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Factors(_Model):
    """What is varied; each combination that makes sense is a cell.

    From ``placement`` on they vary userspace modes alone.
    """

    server: Annotated[tuple[str, ...], Field(min_length=1)]
    mode: Annotated[tuple[Mode, ...], Field(min_length=1)]
    tracer: tuple[str, ...] = ()
    body_bytes: Annotated[tuple[Positive, ...], Field(min_length=1)] = (12,)
    placement: Annotated[tuple[str, ...], Field(min_length=1)] = ("hybrid",)
    loader: Annotated[tuple[Loader, ...], Field(min_length=1)] = ("syscall-server",)
    jit: Annotated[tuple[bool, ...], Field(min_length=1)] = (True,)
    shm_mb: Annotated[tuple[ShmMb, ...], Field(min_length=1)] = (50,)
    map_kind: Annotated[tuple[MapKind, ...], Field(min_length=1)] = ("array",)
    bpftime_prefix: Annotated[tuple[Prefix, ...], Field(min_length=1)] = ("",)


class LoadSettings(BaseModel):
    """Which load, and its parameters (which ones there are is for its adapter to say)."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def parameters(self) -> dict[str, Any]:
        """All fields but the name."""
        return dict(self.model_extra or {})


class TracerSettings(_Model):
    """What a matrix may change of a tracer; what it leaves out is the adapter's.

    With an ``adapter`` it is a further tracer of this name, so that two builds of one share the
    blocks of a run. ``path`` is a build on the host, run in place of the adapter's own program.
    """

    adapter: str | None = None
    path: Build | None = None
    attached_timeout_s: Annotated[float, Field(gt=0, le=3600)] | None = None


class Matrix(_Model):
    """A matrix file. ``warm_up_s`` is load that is not counted before each measurement."""

    schema_version: Annotated[Literal[1], Field(alias="schema")]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")]
    factors: Factors
    load: LoadSettings
    summary: str = ""
    servers: dict[str, dict[str, int]] = {}
    tracers: dict[str, TracerSettings] = {}
    adapters: tuple[str, ...] = ()
    warm_up_s: Annotated[int, Field(ge=0, le=3600)] = 2
    blocks: Annotated[int, Field(ge=1, le=100_000)] = 6
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] | None = None
    limits: Limits = Limits()
    repeat: Repeat = Repeat()


@dataclass(frozen=True)
class Experiment:
    """A matrix with what it takes to plan it: its adapters, its cells, where it came from."""

    matrix: Matrix
    registry: Registry
    cells: tuple[Cell, ...]
    source: str
    sha256: str
    content: dict[str, Any]


def find(name_or_path: str, project: Path) -> Path:
    """The file of a matrix: a name in ``matrices/``, or a path.

    Raises:
        UsageError: there is none; with the names that there are.
    """
    if "/" in name_or_path or name_or_path.endswith((".yml", ".yaml")):
        return Path(name_or_path)
    known = sorted(path.stem for path in (project / "matrices").glob("*.yml"))
    if name_or_path not in known:
        raise UsageError(
            f"no matrix {name_or_path!r}{adapters.nearest(name_or_path, known)} "
            f"There are {', '.join(known)}; or give the path of a file"
        )
    return project / "matrices" / f"{name_or_path}.yml"


def load(
    name_or_path: str, project: Path, settings: Iterable[str] = (), only: str | None = None
) -> Experiment:
    """Read a matrix, apply ``--set`` and ``--only``, and expand it.

    Args:
        name_or_path: ``seed`` or ``path/to/own.yml``.
        project: the checkout, for ``matrices/`` and the adapters.
        settings: of ``--set``, each ``FIELD=VALUE``.
        only: of ``--only``: ``server=https,mode=none,mode=kernel-uprobe``.

    Raises:
        UsageError: each wrong field with file, line and what is allowed.
    """
    path = find(name_or_path, project)
    document = yamlfile.read(path)
    yamlfile.override(document, settings)
    matrix = yamlfile.validate(document, Matrix)
    own = [(path.parent / folder).resolve() for folder in matrix.adapters]
    registry = adapters.load([project, *own])
    _check_builds(document, matrix, registry)
    registry = _with_builds(registry, matrix)
    _check_names(document, matrix, registry)
    registry = _with_settings(registry, matrix)
    cells = _only(expand(matrix, registry), only)
    content = matrix.model_dump(mode="json", by_alias=True)
    source = path.relative_to(project) if path.is_relative_to(project) else path
    return Experiment(
        matrix=matrix,
        registry=registry,
        cells=tuple(cells),
        source=str(source),
        sha256=_sha256(content),
        content=content,
    )


def _with_builds(registry: Registry, matrix: Matrix) -> Registry:
    """The adapters, and under a name of its own each tracer that the matrix makes of one."""
    tracers, folders = dict(registry.tracers), dict(registry.folders)
    for name, settings in matrix.tracers.items():
        base = registry.tracers.get(settings.adapter or name)
        # What is no adapter is said with its place, by _check_builds() or _check_names().
        if base is not None:
            tracers[name] = _built(base, name, settings.path)
            folders["tracers", name] = registry.folders["tracers", base.name]
    return replace(registry, tracers=tracers, folders=folders)


def _built(base: TracerAdapter, name: str, path: str | None) -> TracerAdapter:
    """A tracer under a name of its own; with a path, its program is that file on the host."""
    if path is None:
        return replace(base, name=name)
    programs = {**base.programs, _BUILD_OF: FileRef(path=path)}
    return replace(base, name=name, programs=programs)


def _with_settings(registry: Registry, matrix: Matrix) -> Registry:
    """The adapters with what the matrix changes of them."""
    tracers = dict(registry.tracers)
    for name, settings in matrix.tracers.items():
        changes = settings.model_dump(exclude_none=True, exclude={"adapter", "path"})
        tracers[name] = replace(tracers[name], **changes)
    return replace(registry, tracers=tracers)


def restore(
    content: Mapping[str, Any], source: str, project: Path, cell_ids: Iterable[str]
) -> Experiment:
    """The experiment of an earlier run, by what its run.json holds.

    Args:
        content: the matrix as it was, ``--set`` included.
        source: of the matrix, as noted.
        project: the checkout, for the adapters.
        cell_ids: of the run, in its order; ``--only`` may have left some out.

    Raises:
        UsageError: this checkout cannot make these cells any more.
    """
    try:
        matrix = Matrix.model_validate(content)
        own = [(project / source).parent / folder for folder in matrix.adapters]
        registry = adapters.load([project, *(folder.resolve() for folder in own)])
        registry = _with_settings(_with_builds(registry, matrix), matrix)
        cells = {cell.id: cell for cell in expand(matrix, registry)}
        chosen = tuple(cells[cell_id] for cell_id in cell_ids)
    except (ValueError, KeyError) as error:
        raise UsageError(
            f"this checkout cannot make the cells of matrix {source}: {error}"
        ) from None
    return Experiment(matrix, registry, chosen, source, _sha256(content), dict(content))


def _sha256(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _check_builds(document: yamlfile.Document, matrix: Matrix, registry: Registry) -> None:
    """Tracers that the matrix makes: their names, and the adapters that they are made of."""
    problems = []
    for name, settings in matrix.tracers.items():
        base = settings.adapter if settings.adapter is not None else name
        where = f"{document.where(('tracers', name))}: tracers.{name}"
        if settings.adapter is not None and name in registry.tracers:
            problems.append(f"{where}: that is the name of an adapter; give it another one")
        if settings.adapter is not None and not adapters.is_name(name):
            problems.append(f"{where}: allowed in a name are letters, digits, '.', '_' and '-'")
        if settings.adapter is not None and base not in registry.tracers:
            known = ", ".join(sorted(registry.tracers))
            problems.append(f"{where}.adapter: no {base!r}; allowed are {known}")
        adapter = registry.tracers.get(base)
        if settings.path and adapter and _BUILD_OF not in adapter.programs:
            problems.append(f"{where}.path: adapter {base} has no program called {_BUILD_OF}")
    if problems:
        raise UsageError("\n".join(problems))


def _check_names(document: yamlfile.Document, matrix: Matrix, registry: Registry) -> None:
    """Names of adapters and their parameters."""
    problems: list[str] = []

    def check(place: yamlfile.Place, name: str, known: Iterable[str]) -> bool:
        names = sorted(known)
        if name in names:
            return True
        where = f"{document.where(place)}: {yamlfile.dotted(place)}"
        problems.append(f"{where}: no {name!r}; allowed are {', '.join(names)}")
        return False

    factors = matrix.factors
    # Where no tracer offers any, its cells say so; a name that none knows is misspelt.
    offered = _placements(factors, registry) or set(factors.placement)
    for place, name, known_names in (
        *_each("server", factors.server, registry.servers),
        *_each("tracer", factors.tracer, registry.tracers),
        *((("tracers", name), name, registry.tracers) for name in matrix.tracers),
        *_each("placement", factors.placement, offered),
    ):
        check(place, name, known_names)
    for name, values in matrix.servers.items():
        if check(("servers", name), name, registry.servers):
            known = registry.servers[name].parameters
            problems += _parameter_problems(document, ("servers", name), values, known)
    if check(("load", "name"), matrix.load.name, registry.loads):
        known = registry.loads[matrix.load.name].parameters
        problems += _parameter_problems(document, ("load",), matrix.load.parameters, known)
    if not matrix.factors.tracer and set(matrix.factors.mode) - set(UNTRACED_MODES):
        problems.append(f"{document.where(('factors',))}: factors: traced modes need a tracer")
    if problems:
        raise UsageError("\n".join(problems))


def _each(
    factor: str, names: Iterable[str], known: Iterable[str]
) -> Iterator[tuple[yamlfile.Place, str, Iterable[str]]]:
    """A factor's values with their places and what is allowed."""
    for index, name in enumerate(names):
        yield ("factors", factor, index), name, known


def _placements(factors: Factors, registry: Registry) -> set[str]:
    """All placements that the matrix's tracers offer."""
    tracers = [registry.tracers[name] for name in factors.tracer if name in registry.tracers]
    return {
        name for tracer in tracers for mode in tracer.modes.values() for name in mode.placements
    }


def _parameter_problems(
    document: yamlfile.Document,
    place: yamlfile.Place,
    values: dict[str, Any],
    known: dict[str, Parameter],
) -> list[str]:
    problems = []
    for name, value in values.items():
        where = f"{document.where((*place, name))}: {yamlfile.dotted((*place, name))}"
        parameter = known.get(name)
        if parameter is None:
            problems.append(f"{where}: no such field; allowed are {', '.join(sorted(known))}")
        elif isinstance(value, bool) or not isinstance(value, int):
            problems.append(f"{where}: expected a whole number ({parameter.unit}), found {value!r}")
        elif not parameter.minimum <= value <= parameter.maximum:
            problems.append(
                f"{where}: allowed are {parameter.minimum} to {parameter.maximum} "
                f"({parameter.unit}), found {value}"
            )
    return problems


def expand(matrix: Matrix, registry: Registry) -> list[Cell]:
    """Factors to cells; a factor that does not apply is dropped and equal cells are merged.

    Returns:
        the cells in the order of the file.
    """
    load_adapter = registry.loads[matrix.load.name]
    defaults = {name: parameter.default for name, parameter in load_adapter.parameters.items()}
    load_parameters = {**defaults, **matrix.load.parameters}
    factors = matrix.factors
    cells: dict[str, Cell] = {}
    for server, body_bytes, mode, tracer in product(
        factors.server, factors.body_bytes, factors.mode, factors.tracer or (None,)
    ):
        used = None if mode in UNTRACED_MODES else tracer
        known = registry.servers[server].parameters
        parameters = {name: parameter.default for name, parameter in known.items()}
        in_userspace = mode == "userspace-uprobe"
        for placement, loader, runtime in _runtimes(factors) if in_userspace else [NO_RUNTIME]:
            named = (server, mode, used, placement, *_unusual(factors, loader, runtime))
            cell = Cell(
                id="-".join([*filter(None, named), size_name(body_bytes)]),
                server=server,
                mode=mode,
                tracer=used,
                body_bytes=body_bytes,
                load=matrix.load.name,
                load_parameters=load_parameters,
                server_parameters={**parameters, **matrix.servers.get(server, {})},
                loader=loader,
                placement=placement,
                runtime=runtime,
            )
            cells.setdefault(cell.id, cell)
    return list(cells.values())


_Runtime = tuple[str | None, Loader | None, RuntimeOptions | None]
NO_RUNTIME: _Runtime = (None, None, None)


def _runtimes(factors: Factors) -> list[_Runtime]:
    """Each way to trace in userspace: placement, loader, and the runtime's options."""
    options = product(factors.jit, factors.shm_mb, factors.map_kind, factors.bpftime_prefix)
    runtimes = [RuntimeOptions(*values) for values in options]
    return list(product(factors.placement, factors.loader, runtimes))


def _unusual(
    factors: Factors, loader: Loader | None, runtime: RuntimeOptions | None
) -> list[str | None]:
    """The parts of a cell's name for what is not the default."""
    if runtime is None:
        return []
    usual = RuntimeOptions()
    prefix = factors.bpftime_prefix.index(runtime.bpftime_prefix) + 1
    return [
        "daemon" if loader == "daemon" else None,
        None if runtime.jit else "nojit",
        f"shm{runtime.shm_mb}" if runtime.shm_mb != usual.shm_mb else None,
        runtime.map_kind if runtime.map_kind != usual.map_kind else None,
        # A path is no name for a folder: the prefixes are numbered as the matrix lists them.
        f"bpftime{prefix}" if runtime.bpftime_prefix else None,
    ]


def size_name(size_bytes: int) -> str:
    """``12B``, ``4KiB``, ``2MiB``: exact, and short enough for the name of a cell."""
    for unit, factor in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size_bytes % factor == 0 and size_bytes >= factor:
            return f"{size_bytes // factor}{unit}"
    return f"{size_bytes}B"


def _only(cells: list[Cell], only: str | None) -> list[Cell]:
    """Keep the cells that ``--only`` names; values of one factor are alternatives."""
    if not only:
        return cells
    wanted: dict[str, set[str]] = {}
    for part in only.split(","):
        factor, equals, value = part.strip().partition("=")
        if not equals or factor not in ONLY_FACTORS:
            raise UsageError(
                f"--only {part.strip()}: expected FACTOR=VALUE with one of "
                f"{', '.join(ONLY_FACTORS)}, such as server=https,mode=none,mode=kernel-uprobe"
            )
        wanted.setdefault(factor, set()).add(value)
    for factor, values in wanted.items():
        known = sorted({str(getattr(cell, factor)) for cell in cells if getattr(cell, factor)})
        unknown = sorted(values - set(known))
        if unknown:
            raise UsageError(
                f"--only {factor}={unknown[0]}: not in this matrix; there are {', '.join(known)}"
            )
    kept = [
        cell
        for cell in cells
        if all(str(getattr(cell, factor)) in values for factor, values in wanted.items())
    ]
    if not kept:
        raise UsageError(f"--only {only}: no cell of the matrix fits all of it")
    return kept
