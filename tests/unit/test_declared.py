"""What run.json says of each traced cell, from the adapters."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.runs import edit_json, make_run
from uplab import adapters, declared, results
from uplab.hostside import spec
from uplab.hostside.spec import Adapters, Cell, HitsRule, ModeSpec, Placing, Site
from uplab.measured import Declared, DeclaredSite

ROOT = Path(__file__).parents[2]
REGISTRY = adapters.load([ROOT / "tests" / "data" / "adapters"])
USERSPACE = ModeSpec(
    placement="userspace",
    placements={"hybrid": Placing(userspace=("enter",), kernel=("leave",))},
    events=(HitsRule(3, 3),),
)


def cell_of(mode: spec.Mode, **changes: Any) -> Cell:
    tracer = None if mode in spec.UNTRACED_MODES else "mute"
    made = Cell(f"echo-{mode}", "echo", mode, tracer, 12, "fetch", {"duration_s": 1})
    return replace(made, **changes)


def adapters_with(sites: tuple[Site, ...], mode: spec.Mode, of: ModeSpec) -> Adapters:
    """The adapters of the tests, with these sites and this mode on the tracer."""
    used = REGISTRY.subset(servers=["echo"], tracers=["mute"], loads=["fetch"])
    ready_line = "ready" if of.placement == "any" else None
    tracer = replace(used.tracers["mute"], sites=sites, modes={mode: of}, ready_line=ready_line)
    return replace(used, tracers={"mute": tracer})


ENTER = Site("enter", "f", "entry", (HitsRule(1, 2, 10),))
LEAVE = Site("leave", "f", "ret", (HitsRule(1, 1, traits=("not of this server",)),))
NONE = {"minimum": 0, "maximum": 0, "per_connection": 0.0}


def test_a_site_is_declared_with_its_placement_and_its_range() -> None:
    used = adapters_with((ENTER, LEAVE), "kernel-uprobe", ModeSpec(placement="kernel"))
    found = declared.of(used, [cell_of("kernel-uprobe"), cell_of("none")])
    assert found == {
        "echo-kernel-uprobe": {
            "sites": [
                {
                    "name": "enter",
                    "placement": "kernel",
                    "range": {"minimum": 1, "maximum": 2, "per_connection": 10},
                },
                # No rule of it is for this server.
                {"name": "leave", "placement": "kernel", "range": None},
            ],
            "events": None,
        }
    }


def test_what_is_declared_is_read_back_from_a_run_directory(tmp_path: Path) -> None:
    used = adapters_with((ENTER, LEAVE), "userspace-uprobe", USERSPACE)
    run_dir = make_run(tmp_path / "run", blocks=1, sums=False, outcome="interrupted")
    of = declared.of(used, [cell_of("userspace-uprobe", placement="hybrid")])
    edit_json(run_dir / "run.json", declared=of)
    assert results.load(run_dir).declared == {
        "echo-userspace-uprobe": Declared(
            sites={
                "enter": DeclaredSite("userspace", HitsRule(1, 2, 10)),
                "leave": DeclaredSite("kernel", None),
            },
            events=HitsRule(3, 3),
        )
    }


def test_a_site_that_is_left_alone_must_have_no_hit() -> None:
    used = adapters_with((ENTER,), "tracer-only", ModeSpec(events=(HitsRule(1, 1),)))
    (found,) = declared.of(used, [cell_of("tracer-only")]).values()
    assert found["sites"] == [{"name": "enter", "placement": "untouched", "range": NONE}]
    assert found["events"] == {"minimum": 1, "maximum": 1, "per_connection": 0.0}


@pytest.mark.parametrize(("of_placing", "events"), [((), 3), ((HitsRule(2, 2),), 2)])
def test_a_userspace_cell_is_declared_by_its_own_placement(
    of_placing: tuple[HitsRule, ...], events: float
) -> None:
    placing = replace(USERSPACE.placements["hybrid"], events=of_placing)
    mode = replace(USERSPACE, placements={"hybrid": placing})
    used = adapters_with((ENTER, LEAVE), "userspace-uprobe", mode)
    (found,) = declared.of(used, [cell_of("userspace-uprobe", placement="hybrid")]).values()
    assert [(site["name"], site["placement"]) for site in found["sites"]] == [
        ("enter", "userspace"),
        ("leave", "kernel"),
    ]
    assert found["events"]["minimum"] == events


def test_what_the_tracer_does_not_offer_is_not_declared() -> None:
    used = adapters_with((ENTER, LEAVE), "userspace-uprobe", USERSPACE)
    cells = [
        cell_of("kernel-uprobe"),
        cell_of("userspace-uprobe", placement="elsewhere"),
        cell_of("userspace-uprobe", placement=None),
    ]
    assert declared.of(used, cells) == {}


def test_where_nobody_knows_beforehand_no_place_is_declared() -> None:
    used = adapters_with((ENTER,), "as-shipped", ModeSpec(placement="any"))
    (found,) = declared.of(used, [cell_of("as-shipped")]).values()
    assert [site["placement"] for site in found["sites"]] == [None]
