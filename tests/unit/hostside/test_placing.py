"""uplab/hostside/placing.py: where a cell places each site."""

import pytest

from uplab.hostside.placing import places
from uplab.hostside.spec import Cell, Mode, ModeSpec, Placing, Site, TracerAdapter

SITES = tuple(Site(name, name, "entry", ()) for name in ("hot", "write", "read"))
TRACER = TracerAdapter(
    1,
    "tracer",
    "t",
    "",
    ("{p}",),
    modes={
        "tracer-only": ModeSpec(),
        "kernel-uprobe": ModeSpec(placement="kernel"),
        "as-shipped": ModeSpec(placement="any"),
        "userspace-uprobe": ModeSpec(
            placement="userspace",
            placements={
                "hybrid": Placing(userspace=("hot",), kernel=("write", "read")),
                "entries": Placing(userspace=("hot", "write")),
            },
        ),
    },
    ready_line="ready",
    sites=SITES,
)


def cell(mode: Mode, placement: str | None = None) -> Cell:
    return Cell("c", "s", mode, "t", 12, "l", {}, placement=placement)


@pytest.mark.parametrize(
    ("mode", "placement", "wanted"),
    [
        ("tracer-only", None, ["untouched"] * 3),
        ("kernel-uprobe", None, ["kernel"] * 3),
        ("userspace-uprobe", "hybrid", ["userspace", "kernel", "kernel"]),
        ("userspace-uprobe", "entries", ["userspace", "userspace", "untouched"]),
    ],
)
def test_each_site_has_its_place(mode: Mode, placement: str | None, wanted: list[str]) -> None:
    assert places(TRACER, cell(mode, placement)) == dict(
        zip(("hot", "write", "read"), wanted, strict=True)
    )


def test_nobody_knows_the_sites_of_a_tracer_as_it_was_shipped() -> None:
    assert places(TRACER, cell("as-shipped")) == {}
