"""What apt would do, as its simulation says, and which of it a person has to decide."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType

import pytest

SIMULATED = """\
NOTE: This is only a simulation!
The following packages have been kept back:
  docker-ce
The following held packages will be changed:
  libyaml-0-2 wrk
  more
The following NEW packages will be installed:
  libzycore1
Inst libzycore1 (1.4.1-1 Debian:12.11/oldstable [amd64])
Inst libc6 [2.36-9+deb12u9] (2.36-9+deb12u10 Debian:12.11/oldstable [amd64]) []
Inst libc6:i386 [2.36-9+deb12u9] (2.36-9+deb12u10 Debian:12.11/oldstable [i386])
Remv exim4 [4.96-15]
Purg exim4-config [4.96-15]
Inst wrk (4.1.0-3+b2 Debian:12.11/oldstable [amd64])
Conf wrk (4.1.0-3+b2 Debian:12.11/oldstable [amd64])
"""
RECORDS = """\
Package: haveged
Version: 1.9.14-1
Pre-Depends: init-system-helpers (>= 1.54~)
Description-en: makes
 entropy

Package: nginx
Tag: implemented-in::c, interface::daemon,
 network::server

Package: wrk
Depends: init-system-helpers
Tag: interface::commandline
"""


@pytest.fixture
def plans(uplab_packages: ModuleType) -> ModuleType:
    return importlib.import_module(uplab_packages.Plan.__module__)


def test_a_simulation_is_read(plans: ModuleType) -> None:
    plan = plans.parse_plan(SIMULATED)
    assert [step.text for step in plan.added] == ["libzycore1 (1.4.1-1)", "wrk (4.1.0-3+b2)"]
    upgraded = "libc6 (2.36-9+deb12u9 -> 2.36-9+deb12u10)"
    assert [step.text for step in plan.upgraded] == [upgraded, upgraded]
    removed = ["exim4 (4.96-15)", "exim4-config (4.96-15)"]
    assert [step.text for step in plan.removed] == removed
    assert plan.held == ["libyaml-0-2", "wrk", "more"]
    assert plan.kept_back == ["docker-ce"]


def test_nothing_to_do_is_an_empty_plan(plans: ModuleType) -> None:
    assert plans.parse_plan("NOTE: This is only a simulation!\n") == plans.Plan()


@pytest.mark.parametrize(
    "name",
    [
        *("linux-image-amd64", "linux-image-6.1.0-31-amd64", "proxmox-kernel-6.8.12-4-pve-signed"),
        *("pve-kernel-6.2", "proxmox-default-kernel", "grub-pc", "grub2-common", "shim-signed"),
        *("systemd-boot", "systemd-boot-efi", "proxmox-boot-uuid", "initramfs-tools-core"),
        *("intel-microcode", "pve-firmware", "firmware-realtek"),
    ],
)
def test_what_the_next_boot_runs_does_not_even_come_in(plans: ModuleType, name: str) -> None:
    step = plans.Step(name, "2")
    assert plans.protected(plans.Plan(added=[step])) == [step]
    assert plans.protected(plans.Plan(upgraded=[step])) == [step]


@pytest.mark.parametrize(
    "name",
    [
        *("libc6", "libc-bin", "systemd", "udev", "linux-headers-amd64", "zfs-dkms", "pve-manager"),
        *("proxmox-ve", "proxmox-archive-keyring", "libpve-common-perl", "qemu-server", "corosync"),
        *("zfsutils-linux", "ceph-common", "lvm2", "ifupdown2", "openvswitch-switch"),
    ],
)
def test_what_the_host_stands_on_is_not_replaced(plans: ModuleType, name: str) -> None:
    step = plans.Step(name, "2", "1")
    assert plans.protected(plans.Plan(upgraded=[step])) == [step]
    assert plans.protected(plans.Plan(added=[plans.Step(name, "2")])) == []


@pytest.mark.parametrize(
    "name",
    ["libc6-dev", "linux-libc-dev", "libsystemd0", "libudev1", "gcc", "bpftool", "libgrub-theme"],
)
def test_what_merely_sounds_like_it_is_free(plans: ModuleType, name: str) -> None:
    step = plans.Step(name, "2", "1")
    assert plans.protected(plans.Plan(added=[step], upgraded=[step])) == []


def test_a_refusal_names_each_package_and_the_way_out(plans: ModuleType) -> None:
    grub, libc = plans.Step("grub-pc", "2"), plans.Step("libc6", "2", "1")
    plan = plans.Plan(added=[grub], upgraded=[plans.Step("wrk", "2", "1"), libc])
    text = plans.refusal(plan, ["gcc"], allow_upgrade=False)
    assert "grub-pc (2), libc6 (1 -> 2), which" in text
    assert "wrk" not in text
    assert "insist: --allow-upgrade" in text
    assert plans.refusal(plan, ["gcc"], allow_upgrade=True) == ""
    removing = plans.Plan(removed=[plans.Step("exim4", before="4")], upgraded=[libc])
    text = plans.refusal(removing, ["gcc"], allow_upgrade=True)
    assert text.startswith("apt would remove exim4 (4); no package was changed.")
    assert text.endswith("there, run: apt-get install --no-install-recommends gcc")


def test_services_are_known_by_the_fields_of_their_packages(plans: ModuleType) -> None:
    assert plans.services(RECORDS) == ["haveged", "nginx"]
    assert plans.services("") == []


def test_the_result_adds_sizes_and_units(plans: ModuleType) -> None:
    plan = plans.Plan(
        added=[plans.Step("wrk", "4"), plans.Step("here", "1")],
        upgraded=[plans.Step("cron", "2", "1")],
        removed=[plans.Step("exim4", before="4")],
    )
    units = {"cron": ["cron.service"]}
    result = plans.as_result(plan, {"wrk": 7, "cron": 5}, lambda name: units.get(name, []))
    assert result["added"] == [
        {"name": "wrk", "version": "4", "bytes": 7},
        {"name": "here", "version": "1", "bytes": 0},
    ]
    assert result["upgraded"] == [{"name": "cron", "version": "2", "bytes": 5, "before": "1"}]
    assert result["removed"] == [{"name": "exim4", "version": "4"}]
    assert (result["download_bytes"], result["units"]) == (12, units)


def test_the_units_of_a_package_are_those_that_it_installed(uplab_packages: ModuleType) -> None:
    assert "systemd-journald.service" in uplab_packages.units_of("systemd")
    assert uplab_packages.units_of("dash") == uplab_packages.units_of("no-such-package") == []


def test_complaints_are_apt_s_errors(plans: ModuleType) -> None:
    said = importlib.import_module(plans.__name__.replace("plan", "get")).complaint
    text = "Reading lists\nErr:5 https://a.example x\nE: 401 Unauthorized\nW: whatever\n"
    assert said(text) == "Err:5 https://a.example x\nE: 401 Unauthorized"
    assert said("only\nwords\n") == "only\nwords"
    text = (
        "Some packages could not be installed.\n\n"
        "The following packages have unmet dependencies:\n"
        " a : Depends: b (>= 2) but 1 is to be installed\n     Depends: c\n"
        "E: Unable to correct problems, you have held broken packages.\n"
    )
    assert said(text).splitlines() == [
        " a : Depends: b (>= 2) but 1 is to be installed",
        "     Depends: c",
        "E: Unable to correct problems, you have held broken packages.",
    ]


def test_the_age_of_the_lists(plans: ModuleType, tmp_path: Path) -> None:
    age_s = importlib.import_module(plans.__name__.replace("plan", "get")).lists_age_s
    os.utime(tmp_path, (1000, 1000))
    assert age_s(tmp_path, 1500.0) is None
    (tmp_path / "deb_main_binary-amd64_Packages.lz4").write_text("")
    os.utime(tmp_path / "deb_main_binary-amd64_Packages.lz4", (500, 500))
    os.utime(tmp_path, (1000, 1000))
    assert age_s(tmp_path, 1500.0) == 500.0
