# SPDX-License-Identifier: Apache-2.0
"""What apt would do, read from its own simulation, and which of it a person has to decide."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

#: What the next boot runs: not even a new one comes in, because it would be booted.
BOOTED = (
    # Kernels, of Debian and of Proxmox VE, and the packages that bring the newest one.
    "linux-image-*",
    "linux-modules-*",
    "pve-kernel-*",
    "proxmox-kernel-*",
    "proxmox-default-kernel",
    # Boot loaders and what writes their files.
    "grub-*",
    "grub2*",
    "shim-*",
    "systemd-boot*",
    "syslinux*",
    "extlinux",
    "efibootmgr",
    "proxmox-boot-*",
    "pve-efiboot*",
    # The initial file system, and firmware and microcode, which are in it.
    "initramfs-tools*",
    "dracut*",
    "firmware-*",
    "pve-firmware",
    "intel-microcode",
    "amd64-microcode",
)
#: What everything on the host stands on: to come in is harmless, to be replaced is not.
STOOD_ON = (
    # The C library, and the process and device managers.
    "libc6",
    "libc6-i386",
    "libc-bin",
    "systemd",
    "systemd-sysv",
    "udev",
    # What modules of the running kernel are built with.
    "linux-headers-*",
    "dkms",
    "*-dkms",
    # Proxmox VE, its guests, cluster, storage and network.
    "pve-*",
    "proxmox-*",
    "libpve-*",
    "libproxmox-*",
    "qemu-server",
    "lxc-pve",
    "lxcfs",
    "corosync*",
    "ceph*",
    "zfs*",
    "spl",
    "lvm2",
    "mdadm",
    "ifupdown*",
    "openvswitch-*",
)

_HELD = "The following held packages will be changed:"
_KEPT_BACK = "The following packages have been kept back:"


@dataclass(frozen=True)
class Step:
    """One package of apt's plan; ``before`` is the version that is there, ``version`` the new."""

    name: str
    version: str = ""
    before: str = ""

    @property
    def text(self) -> str:
        """As people read it."""
        if self.version and self.before:
            return f"{self.name} ({self.before} -> {self.version})"
        return f"{self.name} ({self.version or self.before})"


@dataclass(frozen=True)
class Plan:
    """What apt would do; ``held`` are packages that somebody put on hold and it would change."""

    added: list[Step] = field(default_factory=list)
    upgraded: list[Step] = field(default_factory=list)
    removed: list[Step] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    kept_back: list[str] = field(default_factory=list)


def parse_plan(text: str) -> Plan:
    """Read the ``Inst``, ``Remv`` lines of a simulated run of apt-get, and its words on holds."""
    plan = Plan(held=_listed(text, _HELD), kept_back=_listed(text, _KEPT_BACK))
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] not in ("Inst", "Remv", "Purg"):
            continue
        name = words[1].split(":")[0]
        before = words[2].strip("[]") if len(words) > 2 and words[2].startswith("[") else ""
        new = next((word[1:] for word in words[2:4] if word.startswith("(")), "")
        if words[0] != "Inst":
            plan.removed.append(Step(name, before=before))
        elif before:
            plan.upgraded.append(Step(name, new, before))
        else:
            plan.added.append(Step(name, new))
    return plan


def _listed(text: str, heading: str) -> list[str]:
    """The indented names below a heading of apt's."""
    _, _, rest = text.partition(f"{heading}\n")
    block = re.match(r"(?:  .*(?:\n|$))*", rest)
    return block[0].split() if block else []


def protected(plan: Plan) -> list[Step]:
    """What of a plan is not done unless somebody insists: see ``BOOTED`` and ``STOOD_ON``."""
    booted = [step for step in [*plan.added, *plan.upgraded] if _is_one_of(step.name, BOOTED)]
    others = [step for step in plan.upgraded if _is_one_of(step.name, STOOD_ON)]
    return list(dict.fromkeys([*booted, *others]))


def _is_one_of(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def refusal(plan: Plan, names: Iterable[str], *, allow_upgrade: bool) -> str:
    """Why a plan is not carried out, with what mends it; an empty text where it may be.

    To remove a package, or to change one on hold, is never for uplab to decide; to upgrade what
    the host boots or stands on is decided by ``allow_upgrade``.
    """
    command = f"apt-get install --no-install-recommends {' '.join(names)}"
    if plan.removed:
        return (
            f"apt would remove {_texts(plan.removed)}; no package was changed. uplab removes "
            f"none: where that is wanted, there, run: {command}"
        )
    if plan.held:
        return (
            f"apt would change {', '.join(plan.held)}, which somebody put on hold; no package was "
            f"changed. Where that is wanted, there, run: apt-mark unhold {' '.join(plan.held)}"
        )
    kept = [] if allow_upgrade else protected(plan)
    if kept:
        return (
            f"apt would install or upgrade {_texts(kept)}, which this host boots or stands on; no "
            "package was changed. Bring it up to date first (there, run: apt-get upgrade), or "
            "insist: --allow-upgrade (uplab_allow_upgrade: true)"
        )
    return ""


def _texts(steps: Iterable[Step]) -> str:
    return ", ".join(step.text for step in steps)


def services(records: str) -> list[str]:
    """Packages that bring a service, as far as their fields in the package lists tell.

    The lists do not name the files of a package. What sets up a service on its installation needs
    ``init-system-helpers`` before that, or is tagged as a daemon.

    Args:
        records: of ``apt-cache show``.
    """
    found = []
    for record in records.split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z-]+): *(.*(?:\n .*)*)", record, re.MULTILINE))
        helped = "init-system-helpers" in fields.get("Pre-Depends", "")
        if helped or "interface::daemon" in fields.get("Tag", ""):
            found.append(fields.get("Package", ""))
    return sorted({name for name in found if name})


def as_result(
    plan: Plan, sizes: dict[str, int], units: Callable[[str], list[str]]
) -> dict[str, Any]:
    """A plan as the module returns it.

    Args:
        plan: from apt's simulation.
        sizes: what is to be fetched for each package, in bytes; nothing for one that is here.
        units: the systemd units of an installed package.
    """
    going = [*plan.upgraded, *plan.removed]
    return {
        "added": [_row(step, sizes) for step in plan.added],
        "upgraded": [_row(step, sizes) for step in plan.upgraded],
        "removed": [{"name": step.name, "version": step.before} for step in plan.removed],
        "held": plan.held,
        "kept_back": plan.kept_back,
        "protected": [step.name for step in protected(plan)],
        "download_bytes": sum(sizes.values()),
        "units": {step.name: found for step in going if (found := units(step.name))},
    }


def _row(step: Step, sizes: dict[str, int]) -> dict[str, Any]:
    row = {"name": step.name, "version": step.version, "bytes": sizes.get(step.name, 0)}
    return {**row, "before": step.before} if step.before else row
