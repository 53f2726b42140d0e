"""What an adapter, a cell and a plan are: the one model of both sides.

The controller validates YAML against these dataclasses (through pydantic, which also prints
their JSON Schema); the host rebuilds them from the plan's JSON (:mod:`uplab.hostside.decode`).
Only the standard library is used here because this module travels in the zipapp.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from uplab.hostside.templates import placeholders

SCHEMA = 1

MODES = ("none", "none-again", "tracer-only", "kernel-uprobe", "userspace-uprobe", "as-shipped")
UNTRACED_MODES = ("none", "none-again")

#: pydantic reads this attribute: a key that is not a field is an error, not noise.
_STRICT: dict[str, str] = {"extra": "forbid"}

Mode = Literal[
    "none", "none-again", "tracer-only", "kernel-uprobe", "userspace-uprobe", "as-shipped"
]
Loader = Literal["syscall-server", "daemon"]
MapKind = Literal["array", "hash", "percpu-array", "percpu-hash"]

#: A path that stays inside the adapter's folder: no part of it begins with a dot.
_INSIDE = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)*")


@dataclass(frozen=True)
class FileRef:
    """A file on the host: of a component in the store, or by its absolute path.

    ``path`` may contain ``{root}``, the store's root (``/opt/uplab``).
    """

    component: str | None = None
    file: str | None = None
    path: str | None = None
    __pydantic_config__: ClassVar[dict[str, str]] = _STRICT

    def __post_init__(self) -> None:
        given = (self.component is not None, self.file is not None, self.path is not None)
        if given not in ((True, True, False), (False, False, True)):
            raise ValueError("give either component and file, or path")

    @property
    def name(self) -> str | None:
        """What a plan's ``artifacts`` call it; None for what the host makes itself, as its keys."""
        if self.path is None:
            return f"{self.component}/{self.file}"
        return None if placeholders(self.path) else self.path

    @classmethod
    def named(cls, name: str) -> FileRef:
        """The file that :attr:`name` names."""
        if name.startswith("/"):
            return cls(path=name)
        component, _, file = name.partition("/")
        return cls(component=component, file=file)


@dataclass(frozen=True)
class Parameter:
    """A number that a matrix may set on an adapter; ``unit`` is shown by ``--help`` and errors."""

    default: int
    minimum: int
    maximum: int
    unit: str
    help: str
    __pydantic_config__: ClassVar[dict[str, str]] = _STRICT

    def __post_init__(self) -> None:
        if not self.minimum <= self.default <= self.maximum:
            raise ValueError(f"default {self.default} is not in {self.minimum}..{self.maximum}")


@dataclass(frozen=True)
class Answer:
    """What the server must answer before and after each trial; ``body_bytes`` is the cell's."""

    status: int = 200
    protocol: str = "HTTP/1.1"
    __pydantic_config__: ClassVar[dict[str, str]] = _STRICT


@dataclass(frozen=True)
class ServerAdapter:
    """A workload: how it is started, when it is ready and what it must answer.

    ``traits`` say what the server is (``go``, ``tls`` ...): tracers name the traits they need.
    ``ready_line`` is a regular expression searched in each line of its output. ``files`` lie
    beside its adapter.yml and travel to the host, where ``{adapter}`` is their folder;
    ``{scratch}`` is an empty folder that is removed after the trial. ``{address}`` is where it is
    to listen: 127.0.0.1, or the host's address for a load on a second machine.

    It runs as an unprivileged ``user`` of its ``own``, whatever the mode, or as ``root`` where it
    cannot do without. ``lent`` names those of its ``programs`` that only root may read, as a key:
    the server gets copies, in memory, for the trial.
    """

    schema: int
    kind: Literal["server"]
    name: str
    summary: str
    argv: tuple[str, ...]
    url: str
    ready_line: str
    traits: tuple[str, ...] = ()
    role: str | None = None
    programs: dict[str, FileRef] = field(default_factory=dict)
    parameters: dict[str, Parameter] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    answer: Answer = Answer()
    user: Literal["own", "root"] = "own"
    lent: tuple[str, ...] = ()
    ready_timeout_s: float = 10.0
    stop_signal: str = "SIGTERM"
    stop_timeout_s: float = 3.0
    __pydantic_config__: ClassVar[dict[str, str]] = _STRICT

    def __post_init__(self) -> None:
        times_s = {"ready_timeout_s": self.ready_timeout_s, "stop_timeout_s": self.stop_timeout_s}
        _check_program(self.argv, {"stop_signal": self.stop_signal}, times_s)
        _require(self.url.startswith(("http://", "https://")), "url", "allowed are http and https")
        _check_pattern("ready_line", self.ready_line)
        _check_files(self.files)
        for index, name in enumerate(self.lent):
            known = ", ".join(self.programs) or "none"
            text = f"{name!r} is none of the programs (there are: {known})"
            _require(name in self.programs, f"lent.{index}", text)


@dataclass(frozen=True)
class HitsRule:
    """How many hits a site must have per completed request on servers with these traits.

    ``per_connection`` is allowed on top for each of the load's connections (handshake, close).
    """

    minimum: float
    maximum: float
    per_connection: float = 0.0
    traits: tuple[str, ...] = ()
    __pydantic_config__: ClassVar[dict[str, str]] = _STRICT

    def __post_init__(self) -> None:
        if not (0 <= self.minimum <= self.maximum and self.per_connection >= 0):
            raise ValueError(
                f"allowed is 0 <= minimum <= maximum, found {self.minimum:g} and {self.maximum:g}"
            )


@dataclass(frozen=True)
class Site:
    """A group of probe sites: the entry of a symbol, or its RET instructions.

    ``file`` is the name of the mapped file that holds the symbol, such as ``libssl.so.3``; without
    it the server's own program.
    """

    name: str
    symbol: str
    at: Literal["entry", "ret"]
    hits: tuple[HitsRule, ...]
    file: str | None = None
    __pydantic_config__: ClassVar[dict[str, str]] = _STRICT


@dataclass(frozen=True)
class Placing:
    """One way to place the sites of a userspace mode, by their names; the rest stays untouched.

    ``events`` are the events per completed request that it must emit.
    """

    userspace: tuple[str, ...]
    kernel: tuple[str, ...] = ()
    events: tuple[HitsRule, ...] = ()
    __pydantic_config__: ClassVar[dict[str, str]] = _STRICT

    def __post_init__(self) -> None:
        _require(bool(self.userspace), "userspace", "at least one site")
        twice = sorted(set(self.userspace) & set(self.kernel))
        _require(not twice, "kernel", f"{', '.join(twice)} is in userspace already")


@dataclass(frozen=True)
class ModeSpec:
    """A mode that a tracer offers: extra arguments, what the host needs, where its sites lie.

    ``any`` says that nobody knows beforehand: what is altered is found, and shown. A ``userspace``
    mode names its ``placements`` and the loaders it works with; ``preload`` says who puts the
    runtime's library before the tracer's userspace part: uplab before the whole ``tracer``, or the
    tracer itself, before its ``own`` part. Under the loader ``daemon`` the tracer sets kernel
    uprobes, by ``daemon_args``. ``events`` are the events per completed request, ``touches`` what
    of the machine it alters beside the server (``go``: every Go process).
    """

    args: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    placement: Literal["untouched", "kernel", "userspace", "any"] = "untouched"
    placements: dict[str, Placing] = field(default_factory=dict)
    loaders: tuple[Loader, ...] = ("syscall-server", "daemon")
    preload: Literal["tracer", "own"] = "tracer"
    daemon_args: tuple[str, ...] = ()
    events: tuple[HitsRule, ...] = ()
    touches: tuple[Literal["go"], ...] = ()
    __pydantic_config__: ClassVar[dict[str, str]] = _STRICT

    def __post_init__(self) -> None:
        in_userspace = self.placement == "userspace"
        _require(bool(self.placements) is in_userspace, "placements", "for placement userspace")
        _require(bool(self.loaders), "loaders", "at least one")


@dataclass(frozen=True)
class Cause:
    """Why a tracer does not start: a line of its output (a regular expression), and what to do."""

    line: str
    text: str
    __pydantic_config__: ClassVar[dict[str, str]] = _STRICT

    def __post_init__(self) -> None:
        _check_pattern("line", self.line)


@dataclass(frozen=True)
class TracerAdapter:
    """A tracer. It talks in JSON lines: ``attached``, ``counters`` (on a signal), ``end``.

    One that does not gets a ``ready_line``, a regular expression searched in each line of its
    output; where its sites lie then follows from ``sites`` and the server's symbol tables, and its
    hits are the kernel's own counts of its programs' runs, taken during the warm-up.
    ``{mode_args}`` in ``argv`` is replaced by the mode's ``args``; ``{pid}`` is the server's.
    ``files`` lie beside its adapter.yml and travel to the host, where ``{adapter}`` is their
    folder. ``hit_cost`` is a program that prints one JSON line per class of instruction with
    ``ns_per_hit``: what one probe hit costs on this host. ``userspace_hit_cost`` does so for
    bpftime, with ``{preload}`` and ``{bpftime}``, its launcher.

    Where such a tracer prints its events, ``event_line`` is a regular expression that finds each of
    them once (``{pid}`` is the server's), and ``lost_line`` one whose group is a number of lost
    ones. ``self_test`` starts it with no server at all: where it neither says that it is ready nor
    exits with 0, it cannot run on this host, for its last line or the ``causes`` that its output
    shows.
    """

    schema: int
    kind: Literal["tracer"]
    name: str
    summary: str
    argv: tuple[str, ...]
    modes: dict[Mode, ModeSpec]
    needs_traits: tuple[str, ...] = ()
    role: str | None = None
    programs: dict[str, FileRef] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    ready_line: str | None = None
    sites: tuple[Site, ...] = ()
    counters_signal: str = "SIGUSR1"
    attached_timeout_s: float = 30.0
    stop_signal: str = "SIGTERM"
    stop_timeout_s: float = 3.0
    hit_cost: tuple[str, ...] = ()
    userspace_hit_cost: tuple[str, ...] = ()
    event_line: str | None = None
    lost_line: str | None = None
    self_test: tuple[str, ...] = ()
    causes: tuple[Cause, ...] = ()
    __pydantic_config__: ClassVar[dict[str, str]] = _STRICT

    def __post_init__(self) -> None:
        for mode in self.modes:
            _require(mode not in UNTRACED_MODES, "modes", f"{mode} has no tracer")
        _require(bool(self.modes), "modes", "at least one")
        signals = {"counters_signal": self.counters_signal, "stop_signal": self.stop_signal}
        times_s = {
            "attached_timeout_s": self.attached_timeout_s,
            "stop_timeout_s": self.stop_timeout_s,
        }
        _check_program(self.argv, signals, times_s)
        _check_files(self.files)
        for name in ("ready_line", "event_line", "lost_line"):
            text = getattr(self, name)
            if text is not None:
                _require(self.ready_line is not None, name, "for tracers that have a ready_line")
                _check_pattern(name, text)
        can_tell = self.ready_line is not None or not self.self_test
        _require(can_tell, "self_test", "for tracers that have a ready_line")
        if self.lost_line is not None:
            _require(re.compile(self.lost_line).groups == 1, "lost_line", "exactly one group")
        for mode, spec in self.modes.items():
            fits = (spec.placement == "any") is (mode == "as-shipped")
            _require(fits, f"modes.{mode}.placement", "`any` is for as-shipped, and it for `any`")
            unknown = spec.placement == "any" and self.ready_line is None
            _require(not unknown, "ready_line", f"{mode} is for tracers that have one")
        names = [site.name for site in self.sites]
        for index, name in enumerate(names):
            _require(name not in names[:index], f"sites.{index}", f"{name} is there already")
        for mode, spec in self.modes.items():
            for place, placing in spec.placements.items():
                unknown_names = sorted({*placing.userspace, *placing.kernel} - set(names))
                text = f"no site {', '.join(unknown_names)}; there are {', '.join(names)}"
                _require(not unknown_names, f"modes.{mode}.placements.{place}", text)


@dataclass(frozen=True)
class LoadAdapter:
    """A load generator. ``files`` lie beside its adapter.yml and travel to the host.

    ``python`` names the file with ``collect()`` and ``parse()`` (see the reference).
    """

    schema: int
    kind: Literal["load"]
    name: str
    summary: str
    loop: Literal["closed", "open"]
    argv: tuple[str, ...]
    python: str
    role: str | None = None
    programs: dict[str, FileRef] = field(default_factory=dict)
    parameters: dict[str, Parameter] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    stop_signal: str = "SIGINT"
    overrun_s: float = 10.0
    __pydantic_config__: ClassVar[dict[str, str]] = _STRICT

    def __post_init__(self) -> None:
        _check_program(self.argv, {"stop_signal": self.stop_signal}, {"overrun_s": self.overrun_s})
        _require("duration_s" in self.parameters, "parameters", "duration_s is missing")
        rated = self.loop == "closed" or "rate_per_s" in self.parameters
        _require(rated, "parameters", "rate_per_s is missing: an open loop has a fixed rate")
        _check_files(self.files)
        inside = bool(_INSIDE.fullmatch(self.python))
        _require(inside, "python", f"{self.python!r} is no file in the adapter's folder")


@dataclass(frozen=True)
class RuntimeOptions:
    """How bpftime runs: factors of a userspace cell.

    ``bpftime_prefix`` is the folder of an installation; empty, the store's component ``bpftime``.
    ``map_kind`` is for tracers whose arguments name it.
    """

    jit: bool = True
    shm_mb: int = 50
    map_kind: MapKind = "array"
    bpftime_prefix: str = ""


@dataclass(frozen=True)
class Cell:
    """One combination of factors: what a trial measures.

    ``loader``, ``placement`` (a name of the mode's) and ``runtime`` are of userspace modes alone.
    """

    id: str
    server: str
    mode: Mode
    tracer: str | None
    body_bytes: int
    load: str
    load_parameters: dict[str, int]
    server_parameters: dict[str, int] = field(default_factory=dict)
    loader: Loader | None = None
    placement: str | None = None
    runtime: RuntimeOptions | None = None


@dataclass(frozen=True)
class Limits:
    """When a host was not quiet, and what follows from it.

    Stolen time and foreign load in percent of all cores, events of CPU throttling, degrees Celsius
    of the hottest CPU sensor.
    """

    steal_pct: float = 10.0
    foreign_pct: float = 10.0
    throttle_events: int = 0
    temperature_c: float = 90.0
    over: Literal["flag", "invalid"] = "flag"
    __pydantic_config__: ClassVar[dict[str, str]] = _STRICT

    def __post_init__(self) -> None:
        for name in ("steal_pct", "foreign_pct"):
            value = getattr(self, name)
            _require(0 <= value <= 100, name, f"allowed are 0 to 100 percent, found {value!r}")
        events, degrees = self.throttle_events, self.temperature_c
        _require(events >= 0, "throttle_events", f"allowed is 0 or more, found {events!r}")
        text = f"allowed are 0 to 150 degrees Celsius, found {degrees!r}"
        _require(0 <= degrees <= 150, "temperature_c", text)


@dataclass(frozen=True)
class Repeat:
    """How often a block with an invalid trial is measured again."""

    per_block: int = 1
    per_run: int = 3
    __pydantic_config__: ClassVar[dict[str, str]] = _STRICT

    def __post_init__(self) -> None:
        for name in ("per_block", "per_run"):
            value = getattr(self, name)
            _require(0 <= value <= 1000, name, f"allowed are 0 to 1000, found {value!r}")


@dataclass(frozen=True)
class Adapters:
    """The adapters that a plan uses, by name."""

    servers: dict[str, ServerAdapter]
    tracers: dict[str, TracerAdapter]
    loads: dict[str, LoadAdapter]


@dataclass(frozen=True)
class Earlier:
    """What of a run was measured before it is taken up again.

    ``number`` is the highest number of a trial, ``skip`` holds ``BLOCK/CELL_ID`` of what need not
    be measured again, ``attempts`` the attempt with which a block (its number as text) goes on.
    """

    number: int = 0
    skip: tuple[str, ...] = ()
    attempts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadFrom:
    """A second machine that the load runs on.

    ``name`` is its host's, ``address`` where its agent listens, ``server_address`` the address of
    the measured host that the server listens on; ``artifacts`` are the load's programs there with
    their digests.
    """

    name: str
    address: str
    server_address: str
    artifacts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """All that the host needs to know: what to run, how to judge it, where it came from.

    ``cells`` are the ones to measure; ``header`` is carried into ``run.json`` as it is.
    ``artifacts`` maps ``component/file``, or a path, to the sha256 that the plan was made for.
    ``tune`` sets the host's settings for the time of the run (see ``tuning.py``). ``earlier`` is of
    a run that is taken up again. ``load_from`` is of a run whose load is on a second machine.
    """

    schema: int
    run_id: str
    seed: int
    blocks: int
    warm_up_s: int
    plan_sha256: str
    cells: tuple[Cell, ...]
    limits: Limits
    repeat: Repeat
    adapters: Adapters
    artifacts: dict[str, str]
    header: dict[str, Any] = field(default_factory=dict)
    tune: bool = False
    earlier: Earlier = Earlier()
    load_from: LoadFrom | None = None


def _require(condition: bool, place: str, text: str) -> None:
    """Raise ValueError as ``field: text``, which the reader of the YAML file turns into a line."""
    if not condition:
        raise ValueError(f"{place}: {text}")


def _check_pattern(place: str, text: str) -> None:
    """Raise ValueError unless a text is a regular expression."""
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{place}: no regular expression ({error})") from error


def _check_files(names: tuple[str, ...]) -> None:
    """Raise ValueError unless all files stay in their adapter's folder."""
    for index, name in enumerate(names):
        inside = bool(_INSIDE.fullmatch(name))
        _require(inside, f"files.{index}", f"{name!r} is no file in the adapter's folder")


def _check_program(argv: tuple[str, ...], signals: Mapping[str, str], times_s: Any) -> None:
    """What holds for every adapter that starts a program."""
    _require(bool(argv), "argv", "at least the program")
    for name, value in signals.items():
        known = value in signal.Signals.__members__
        _require(known, name, f"no signal {value!r}; allowed are names such as SIGTERM")
    for name, value_s in times_s.items():
        _require(0 < value_s < 86_400, name, f"allowed is more than 0 s, found {value_s!r}")
