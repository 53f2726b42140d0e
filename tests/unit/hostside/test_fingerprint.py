"""uplab/hostside/fingerprint.py: what may explain a figure, as other programs see it too."""

import json
import os
import platform
from pathlib import Path

from uplab.hostside import fingerprint
from uplab.hostside.store import Store

RECORD = {"version": "1.2", "hash": "0123456789ab", "source": "build", "prefix": "/x"}
STORE = Store(Path("/nowhere"), {"components": {"thing": RECORD, "half": {}}})


def test_it_says_what_the_machine_says() -> None:
    seen = fingerprint.take(STORE)
    assert seen["kernel"]["release"] == os.uname().release
    assert seen["kernel"]["cmdline"] == Path("/proc/cmdline").read_text().strip()
    assert seen["cpu"]["logical_cpus"] == os.cpu_count()
    assert seen["memory_bytes"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert seen["distribution"] == platform.freedesktop_os_release()["PRETTY_NAME"]
    assert seen["python"] == platform.python_version()
    assert seen["uptime_s"] > 0
    cpuinfo = Path("/proc/cpuinfo").read_text()
    assert f": {seen['cpu']['model']}\n" in cpuinfo
    assert f": {seen['cpu']['microcode']}\n" in cpuinfo
    assert seen["cpu"]["virtual_machine"] == (" hypervisor " in cpuinfo.replace("\n", " "))


def test_what_cannot_be_read_is_none_and_never_left_out() -> None:
    settings = fingerprint.take(STORE)["settings"]
    assert set(settings) == set(fingerprint._SETTINGS)
    for name, path in fingerprint._SETTINGS.items():
        assert settings[name] == (path.read_text().strip() if path.exists() else None)


def test_the_components_are_named_with_their_versions() -> None:
    assert fingerprint.take(STORE)["components"] == {
        "thing": {"version": "1.2", "hash": "0123456789ab", "source": "build"},
        "half": {"version": None, "hash": None, "source": None},
    }


def test_it_is_json_without_surprises() -> None:
    seen = fingerprint.take(STORE)
    assert json.loads(json.dumps(seen, allow_nan=False)) == seen


def test_every_vulnerability_of_the_kernel_is_listed() -> None:
    folder = Path("/sys/devices/system/cpu/vulnerabilities")
    expected = sorted(os.listdir(folder)) if folder.is_dir() else []
    assert sorted(fingerprint.take(STORE)["mitigations"]) == expected


def test_the_power_profiles_are_read_where_there_are_any(tmp_path: Path) -> None:
    assert fingerprint.power(tmp_path) == dict.fromkeys(fingerprint._POWER)
    texts = {
        "sys/firmware/acpi/platform_profile": "balanced",
        "sys/devices/system/cpu/cpu0/cpufreq/energy_performance_preference": "balance_performance",
        "sys/devices/system/cpu/cpu0/power/energy_perf_bias": "6",
        "sys/class/firmware-attributes/dell-wmi-sysman/attributes/SysProfile/current_value": (
            "PerfOptimized"
        ),
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert list(fingerprint.power(tmp_path).values()) == list(texts.values())
    assert fingerprint.take(STORE)["power"] == fingerprint.power()
