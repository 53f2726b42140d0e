"""uplab/hostside/noise.py: what happened on a host, on a tree of files and on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.hostside.machines import write
from tests.unit.hostside.test_kmsg import HOT, MCE, OOM, record
from uplab.hostside import noise
from uplab.hostside.judge import Reason
from uplab.hostside.noise import Watch
from uplab.hostside.spec import Limits

CPU = "sys/devices/system/cpu"
CORETEMP = "sys/class/hwmon/hwmon1"
LIMITS = Limits()


def bare_metal(root: Path) -> Path:
    """Two cores of two threads each in one package, sensors, a frequency, the kernel's log."""
    files: dict[str, str | None] = {
        "proc/vmstat": "nr_free_pages 1\noom_kill 5\nswap_ra 0\n",
        "dev/kmsg": record(OOM),
        "sys/class/thermal/thermal_zone0/temp": "27800\n",
        "sys/class/thermal/thermal_zone0/type": "acpitz\n",
        "sys/class/hwmon/hwmon0/name": "nvme\n",
        "sys/class/hwmon/hwmon0/temp1_input": "99000\n",
        f"{CORETEMP}/name": "coretemp\n",
        f"{CORETEMP}/temp1_input": "61000\n",
        f"{CORETEMP}/temp1_label": "Package id 0\n",
        f"{CORETEMP}/temp2_input": "58500\n",
        f"{CORETEMP}/temp2_label": "Core 0\n",
        f"{CPU}/cpufreq/policy0/scaling_cur_freq": "2000000\n",
        f"{CPU}/cpufreq/policy1/scaling_cur_freq": "3000000\n",
    }
    for cpu, core in enumerate((0, 1, 0, 1)):
        files[f"{CPU}/cpu{cpu}/thermal_throttle/core_throttle_count"] = f"{7 + core}\n"
        files[f"{CPU}/cpu{cpu}/thermal_throttle/core_throttle_total_time_ms"] = "1000\n"
        files[f"{CPU}/cpu{cpu}/thermal_throttle/package_throttle_count"] = "3\n"
        files[f"{CPU}/cpu{cpu}/topology/core_id"] = f"{core}\n"
        files[f"{CPU}/cpu{cpu}/topology/physical_package_id"] = "0\n"
    write(root, files)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return bare_metal(tmp_path)


@pytest.fixture
def watch(root: Path) -> Iterator[Watch]:
    watching = Watch(root).begin()
    yield watching
    watching.close()


def said(root: Path, *texts: str) -> None:
    with (root / "dev/kmsg").open("a") as file:
        file.write("".join(record(text) for text in texts))


def test_a_quiet_trial(watch: Watch) -> None:
    record = watch.end()
    assert record == {
        "throttle_events": 0,
        "temperature": {"highest_c": 61.0, "sensor": "coretemp Package id 0"},
        "frequency": {"min_mhz": 2000.0, "mean_mhz": 2500.0},
        "oom_kills": 0,
        "kernel": {
            "counts": {"oom": 0, "throttle": 0, "mce": 0},
            "lines": {"oom": [], "throttle": [], "mce": []},
        },
        "missing": {},
    }
    assert noise.judge(LIMITS, record) == ([], [])


def test_what_rose_during_the_trial_is_told(root: Path, watch: Watch) -> None:
    for cpu in (0, 2):
        write(root, {f"{CPU}/cpu{cpu}/thermal_throttle/core_throttle_count": "9\n"})
    for cpu in range(4):
        write(root, {f"{CPU}/cpu{cpu}/thermal_throttle/package_throttle_count": "4\n"})
    write(root, {"proc/vmstat": "oom_kill 6\n"})
    said(root, OOM, MCE, HOT)
    record = watch.end()
    # Two of the one core, whose threads show the same counter, and one of the package.
    assert record["throttle_events"] == 3
    assert record["oom_kills"] == 1
    assert record["kernel"]["counts"] == {"oom": 1, "throttle": 1, "mce": 1}
    _, flags = noise.judge(LIMITS, record)
    assert flags == [
        "CPU throttling events 3 > 0",
        "processes that the kernel killed for want of memory 1 > 0",
        "errors of the hardware that the kernel reported 1 > 0",
    ]
    json.dumps(record)


def test_the_highest_temperature_and_the_lowest_frequency_between_are_seen(
    root: Path, watch: Watch
) -> None:
    write(root, {f"{CORETEMP}/temp2_input": "91500\n"})
    write(root, {f"{CPU}/cpufreq/policy0/scaling_cur_freq": "800000\n"})
    watch.sample()
    bare_metal(root)
    record = watch.end()
    assert record["temperature"] == {"highest_c": 91.5, "sensor": "coretemp Core 0"}
    assert record["frequency"] == {"min_mhz": 800.0, "mean_mhz": 2300.0}
    assert noise.judge(LIMITS, record)[1] == ["91.5 degrees Celsius (coretemp Core 0) > 90"]


def test_without_a_cpu_s_sensor_the_others_are_looked_at(root: Path) -> None:
    for name in ("name", "temp1_input", "temp2_input"):
        write(root, {f"{CORETEMP}/{name}": None})
    watch = Watch(root).begin()
    assert watch.end()["temperature"] == {"highest_c": 99.0, "sensor": "nvme"}
    watch.close()


def test_a_host_that_has_none_of_it_names_each_and_says_never_0(tmp_path: Path) -> None:
    watch = Watch(tmp_path).begin()
    record = watch.end()
    watch.close()
    assert {name: value for name, value in record.items() if name != "missing"} == {
        "throttle_events": None,
        "temperature": None,
        "frequency": None,
        "oom_kills": None,
        "kernel": None,
    }
    assert record["missing"] == {
        "throttle_events": "no /sys/devices/system/cpu/cpu*/thermal_throttle",
        "oom_kills": "no oom_kill in /proc/vmstat",
        "temperature": "no sensor in /sys/class/thermal or /sys/class/hwmon",
        "frequency": "no /sys/devices/system/cpu/cpufreq/policy*/scaling_cur_freq",
        "kernel": "/dev/kmsg: No such file or directory",
    }
    assert noise.judge(LIMITS, record) == ([], [])


@pytest.mark.parametrize("text", ["", "unknown\n", "12 34\n"])
def test_a_source_that_says_no_number_is_missing(root: Path, text: str) -> None:
    names = ["proc/vmstat", f"{CORETEMP}/temp1_input", f"{CORETEMP}/temp2_input"]
    names += [f"{CPU}/cpufreq/policy{number}/scaling_cur_freq" for number in (0, 1)]
    names += [f"{CPU}/cpu{n}/thermal_throttle/core_throttle_count" for n in range(4)]
    names += [f"{CPU}/cpu{n}/thermal_throttle/package_throttle_count" for n in range(4)]
    write(root, dict.fromkeys(names, text))
    watch = Watch(root).begin()
    record = watch.end()
    watch.close()
    assert set(record["missing"]) == {"throttle_events", "oom_kills", "temperature", "frequency"}
    assert record["temperature"] is record["frequency"] is record["throttle_events"] is None


def test_a_counter_that_was_set_back_is_not_known(root: Path, watch: Watch) -> None:
    write(root, {"proc/vmstat": "oom_kill 1\n"})
    record = watch.end()
    assert record["oom_kills"] is None
    assert record["missing"] == {"oom_kills": "it is there, but could not be read"}


def test_without_a_topology_each_cpu_counts_for_itself(root: Path) -> None:
    for cpu in range(4):
        write(root, {f"{CPU}/cpu{cpu}/topology/core_id": None})
    watch = Watch(root).begin()
    write(root, {f"{CPU}/cpu0/thermal_throttle/core_throttle_count": "8\n"})
    assert watch.end()["throttle_events"] == 1
    watch.close()


def test_what_is_over_a_limit_is_invalid_where_the_matrix_says_so(watch: Watch) -> None:
    record = watch.end()
    strict = replace(LIMITS, temperature_c=60.0, over="invalid")
    text = "61.0 degrees Celsius (coretemp Package id 0) > 60"
    assert noise.judge(strict, record) == ([Reason("noise", text)], [])
    assert noise.judge(replace(strict, over="flag"), record) == ([], [text])
    assert noise.judge(replace(strict, temperature_c=61.0), record) == ([], [])


@pytest.mark.parametrize(("events", "limit", "loud"), [(2, 1, True), (1, 1, False), (0, 0, False)])
def test_the_limit_of_throttling_is_the_most_that_is_quiet(
    watch: Watch, events: int, limit: int, loud: bool
) -> None:
    record = watch.end() | {"throttle_events": events}
    assert bool(noise.judge(replace(LIMITS, throttle_events=limit), record)[1]) is loud


def test_the_kernel_s_word_counts_where_a_counter_is_missing(root: Path) -> None:
    for cpu in range(4):
        for kind in ("core", "package"):
            write(root, {f"{CPU}/cpu{cpu}/thermal_throttle/{kind}_throttle_count": None})
    write(root, {"proc/vmstat": None})
    watch = Watch(root).begin()
    said(root, OOM, HOT)
    record = watch.end()
    watch.close()
    assert record["throttle_events"] is record["oom_kills"] is None
    assert len(noise.judge(LIMITS, record)[1]) == 2


@pytest.mark.parametrize(
    "wrong", [{"throttle_events": -1}, {"temperature_c": -1.0}, {"temperature_c": 500.0}]
)
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: allowed"):
        Limits(**wrong)


def test_closing_twice_is_once(watch: Watch) -> None:
    watch.close()
    watch.close()
    assert watch.end()["kernel"] is None


def test_this_machine_is_read_and_what_it_lacks_is_named() -> None:
    watch = Watch().begin()
    record = watch.end()
    watch.close()
    for name in ("throttle_events", "temperature", "frequency", "oom_kills", "kernel"):
        assert (record[name] is None) == (name in record["missing"]), name
    assert record["oom_kills"] is not None
    assert record["kernel"] is not None
