"""The tasks of the namespace ``bench``: planning and running measurements."""

from __future__ import annotations

from pathlib import Path

from invoke.collection import Collection
from invoke.context import Context

from uplab.cli.common import PROJECT_ROOT, command

ns = Collection("bench")

_MATRIX_FLAGS = {
    "host": "name of a host in the inventory",
    "matrix": "name of a matrix in matrices/, or the path of a file",
    "set": "change a field of the matrix, such as load.duration_s=30 (seconds) or blocks=3",
    "only": "cells to keep, such as server=https,mode=none,mode=kernel-uprobe; default: all",
    "touch_others": "measure also where a tracer alters other programs of the host",
}


@command(
    ns,
    name="all",
    flags={
        **_MATRIX_FLAGS,
        "strict": "fail (exit code 3) also when a cell is not available on the host",
        "setup": "set the host up first where its parts are missing or have changed",
        "results": "folder that run directories are written to",
    },
    iterable=("set",),
)
def all_(
    c: Context,
    set: list[str],
    host: str = "local",
    matrix: str = "seed",
    only: str | None = None,
    touch_others: bool = False,
    strict: bool = False,
    setup: bool = True,
    results: str = "results",
) -> None:
    """Set a host up if needed, measure a matrix, make the report."""
    from uplab import campaign

    campaign.run(
        campaign.Request(
            project=PROJECT_ROOT,
            host=host,
            matrix=matrix,
            settings=tuple(set),
            only=only,
            strict=strict,
            setup=setup,
            touch_others=touch_others,
            results=Path(results),
        )
    )


@command(ns, flags=_MATRIX_FLAGS, iterable=("set",))
def plan(
    c: Context,
    set: list[str],
    host: str = "local",
    matrix: str = "seed",
    only: str | None = None,
    touch_others: bool = False,
) -> None:
    """Show cells, order, duration, what cannot run; change nothing."""
    from uplab import campaign

    request = campaign.Request(
        PROJECT_ROOT, host, matrix, tuple(set), only, touch_others=touch_others
    )
    print(campaign.preview(request))


@command(
    ns,
    flags={
        "adapter": "the adapter to certify, as KIND/NAME, such as tracer/NAME",
        "host": "name of a host in the inventory",
        "server": "server to certify it with; default: the first that fits",
        "adapters": "further folder with servers/, tracers/, loads/; default: none",
    },
)
def certify(
    c: Context,
    adapter: str,
    host: str = "local",
    server: str | None = None,
    adapters: str | None = None,
) -> None:
    """Walk one adapter through its life; name the step that fails."""
    from uplab import certify as certification

    print(certification.certify(PROJECT_ROOT, adapter, host, server, adapters))


@command(
    ns,
    name="self",
    flags={"only": "benchmarks to run, by name and separated by commas; default: all"},
)
def self_(c: Context, only: str | None = None) -> None:
    """Measure uplab's own speed."""
    from uplab import selfbench

    selfbench.run(PROJECT_ROOT, tuple(only.split(",")) if only else ())
