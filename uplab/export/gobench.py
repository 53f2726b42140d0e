"""Trials in the Go benchmark format, for benchstat and its likes: one line per trial that counts.

The format is that of https://golang.org/design/14313-benchmark-format with its unit metadata:
``key: value`` lines describe the run, ``Unit`` lines say which way is better, and a result line is
``Benchmark<name>/<key>=<value>... <iterations> <value> <unit>...``. Iterations are requests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from uplab.analysis import cpu_us_of, hits_per_request, rps_of
from uplab.measured import Cell, Trial
from uplab.report import text
from uplab.report.model import Report, flat

_NAME = "BenchmarkUplab"
#: Unit, which way is better (None: neither), and how to read it. Times in ns, which benchstat
#: scales; its readers know `sec` and `B` as bases.
_UNITS: tuple[tuple[str, str | None, Callable[[Trial], float | None]], ...] = (
    ("req/s", "higher", rps_of),
    ("server-cpu-ns/req", "lower", lambda trial: _ns(cpu_us_of(trial))),
    ("p50-ns", "lower", lambda trial: _latency(trial, "p50")),
    ("p99-ns", "lower", lambda trial: _latency(trial, "p99")),
    ("hits/req", None, hits_per_request),
)
# Keys may hold no space and no upper case, a name no space; a slash would begin another part.
_UNFIT = re.compile(r"[^\w.+=-]+", re.ASCII)
# A dash and digits at the end of a name would be read as GOMAXPROCS.
_PROCS = re.compile(r"-(\d+)$")


def render(report: Report) -> bytes:
    """The trials that count, in the order of their numbers; of those that do not, a comment."""
    return "".join(f"{line}\n" for line in _lines(report)).encode()


def _lines(report: Report) -> Iterator[str]:
    yield from _configuration(report)
    for unit, better, _ in _UNITS:
        if better is not None:
            yield f"Unit {unit} better={better}"
    yield ""
    for trial in report.run.trials:
        if trial.name in report.analysis.counted:
            line = _result(trial)
            if line is not None:
                yield line
        else:
            yield f"# does not count: {text.plain(trial.name)}"


def _configuration(report: Report) -> Iterator[str]:
    run, host = report.run, flat(report.run.fingerprint_before)
    told = {
        "run": run.run_id,
        "host": run.host,
        "matrix": run.matrix_name,
        "uplab": run.uplab_version,
        "provenance": run.provenance,
        "goos": "linux" if host.get("kernel.release") else None,
        "cpu": host.get("cpu.model"),
        "kernel": host.get("kernel.release"),
    }
    for key, value in told.items():
        if value:
            yield f"{key}: {text.plain(str(value))}"


def _result(trial: Trial) -> str | None:
    """One line; None where not even the number of requests is known."""
    requests = trial.load.requests if trial.load else None
    figures = [(read(trial), unit) for unit, _, read in _UNITS]
    shown = [f"{value:.9g} {unit}" for value, unit in figures if value is not None]
    if not requests or not shown:
        return None
    return "\t".join([f"{_name(trial.cell)}", str(requests), *shown])


def _name(cell: Cell) -> str:
    parameters = sorted(cell.load_parameters.items())
    parts = {
        "server": cell.server,
        "mode": cell.mode,
        "tracer": cell.tracer,
        "placement": text.placement(cell.placement),
        "loader": cell.loader,
        "options": text.runtime(cell.runtime),
        "load": " ".join([cell.load, *(f"{key}={value}" for key, value in parameters)]),
        "body": f"{cell.body_bytes}B",
    }
    named = [f"{key}={_fit(value)}" for key, value in parts.items() if value]
    return _PROCS.sub(r"_\1", "/".join([_NAME, *named]))


def _fit(value: str) -> str:
    return _UNFIT.sub("_", text.plain(value))


def _ns(value_us: float | None) -> float | None:
    return None if value_us is None else 1000 * value_us


def _latency(trial: Trial, name: str) -> float | None:
    return _ns(trial.load.latency_us.get(name) if trial.load else None)
