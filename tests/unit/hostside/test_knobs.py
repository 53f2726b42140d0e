"""uplab/hostside/knobs.py: what tuning wants of a host, and what a host does not let it set."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.hostside import kerneltree
from tests.unit.hostside.kerneltree import ASLR, CPU, GOVERNORS, IRQS, NMI, PORTS, THP, TURBO
from tests.unit.hostside.machines import write
from uplab.hostside import cpuplan, knobs
from uplab.hostside.cpuplan import CpuPlan
from uplab.hostside.settings import Settings


def four(root: Path) -> CpuPlan:
    plan = cpuplan.make(Settings(root), frozenset(range(4)))
    assert plan is not None
    return plan


def asked(root: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The wishes by path, and what cannot be set by knob."""
    wishes, lacking = knobs.wishes(Settings(root), four(root))
    return {w.path: w.new for w in wishes}, {each.knob: each.reason for each in lacking}


def test_everything_of_a_machine_that_has_everything(tmp_path: Path) -> None:
    assert asked(kerneltree.make(tmp_path)) == (kerneltree.TUNED, {})


def test_a_machine_that_has_nothing_says_what_it_lacks(tmp_path: Path) -> None:
    wishes, lacking = asked(tmp_path)
    assert wishes == {}
    assert lacking == {
        "governor": f"no cpufreq in {CPU}: the frequency is not the kernel's",
        "turbo": f"neither intel_pstate/no_turbo nor cpufreq/boost in {CPU}",
        "thp": f"no {THP}",
        "nmi-watchdog": f"no {NMI}",
        "aslr": f"no {ASLR}",
        "port-range": f"no {PORTS}",
        "irq-affinity": "no /proc/irq",
    }


def test_turbo_goes_off_where_the_driver_calls_it_boost(tmp_path: Path) -> None:
    boost = f"{CPU}/cpufreq/boost"
    wishes, _ = asked(kerneltree.make(tmp_path, {TURBO: None, boost: "1\n"}))
    assert wishes[boost] == "0"
    assert TURBO not in wishes


def test_a_driver_without_the_governor_is_named(tmp_path: Path) -> None:
    offered = GOVERNORS[0].replace("_governor", "_available_governors")
    wishes, lacking = asked(kerneltree.make(tmp_path, {offered: "powersave schedutil\n"}))
    assert GOVERNORS[0] not in wishes
    assert wishes[GOVERNORS[1]] == "performance"
    assert lacking["governor"].endswith("the driver offers only powersave schedutil")


@pytest.mark.parametrize(
    ("before", "wanted"),
    [("1024 65535", "1024 65535"), ("32768 50000", "10000 65535"), ("9000 40000", "9000 65535")],
)
def test_the_port_range_never_becomes_narrower(tmp_path: Path, before: str, wanted: str) -> None:
    wishes, _ = asked(kerneltree.make(tmp_path, {PORTS: f"{before}\n"}))
    assert wishes[PORTS] == wanted


def test_a_range_of_another_form_is_named(tmp_path: Path) -> None:
    wishes, lacking = asked(kerneltree.make(tmp_path, {PORTS: "all\n"}))
    assert PORTS not in wishes
    assert lacking["port-range"] == f"{PORTS} reads 'all'"


def test_only_interrupts_that_may_reach_the_server_are_moved(tmp_path: Path) -> None:
    wishes, _ = asked(kerneltree.make(tmp_path, {IRQS[0]: "1\n", IRQS[1]: "1-2\n"}))
    assert IRQS[0] not in wishes
    assert wishes[IRQS[1]] == "0-1"


def test_interrupts_stay_where_no_cpu_can_be_kept_free(tmp_path: Path) -> None:
    wishes, lacking = knobs.wishes(Settings(kerneltree.make(tmp_path)), None)
    assert not {wish.path for wish in wishes} & set(IRQS)
    (why,) = [each.reason for each in lacking if each.knob == "irq-affinity"]
    assert why == "fewer than 4 CPUs: none can be kept free of them"


def test_who_moves_interrupts_all_the_time_is_named(tmp_path: Path) -> None:
    write(kerneltree.make(tmp_path), {"proc/77/comm": "irqbalance\n"})
    wishes, lacking = asked(tmp_path)
    assert not set(wishes) & set(IRQS)
    assert "systemctl stop irqbalance" in lacking["irq-affinity"]
