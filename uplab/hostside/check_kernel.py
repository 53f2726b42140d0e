"""The preflight's checks of distribution and kernel: can probes be set here at all?"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator

from uplab.hostside import bpfload, serveruser
from uplab.hostside.system import Line, System

_RELEASES = ("12", "13")
_PVE_RELEASES = ("8", "9")
_OLDEST_KERNEL = (6, 1)
#: The kernel's options without which nothing can be traced, and those that some tracers want.
_REQUIRED = ("BPF_SYSCALL", "BPF_EVENTS", "UPROBES", "UPROBE_EVENTS", "DEBUG_INFO_BTF", "FTRACE")
_USEFUL = ("KPROBES", "BPF_JIT", "FTRACE_SYSCALLS")
_KERNEL_MEND = "apt-get install linux-image-amd64   (then reboot; Proxmox VE's own kernels fit too)"
_EVENT_SOURCES = "/sys/bus/event_source/devices"


def distribution(system: System) -> Iterator[Line]:
    """Debian 12 or 13, or the Proxmox VE made of it, on x86_64."""
    text = system.text("/etc/os-release") or ""
    found = dict(re.findall(r'^([A-Z_]+)="?([^"\n]*)', text, re.MULTILINE))
    wanted = "Debian 12 or 13, or Proxmox VE 8 or 9, on x86_64"
    seen = f"{found.get('PRETTY_NAME', 'no /etc/os-release')}, {system.machine}"
    good = found.get("ID") == "debian" and found.get("VERSION_ID") in _RELEASES
    good = good and system.machine == "x86_64"
    version = pve_version(system)
    if version is not None:
        seen = f"Proxmox VE {version} on {seen}"
        good = good and version.split(".")[0] in _PVE_RELEASES
    if good:
        yield Line("distribution", "ok", seen, wanted)
    else:
        mend = "Install one of these: the roles are written for nothing else"
        yield Line("distribution", "fail", seen, wanted, mend)


def pve_version(system: System) -> str | None:
    """The version of Proxmox VE; ``of unknown version`` where it does not say; None elsewhere."""
    if not (system.path("/etc/pve").is_dir() or system.path("/usr/bin/pveversion").exists()):
        return None
    said = system.output(["pveversion"]) or ""
    match = re.match(r"pve-manager/([0-9.]+)", said)
    return match.group(1) if match else "of unknown version"


def release(system: System) -> Iterator[Line]:
    """The kernel's release."""
    wanted = ".".join(map(str, _OLDEST_KERNEL)) + " or newer (6.6 sets all uprobes by one link)"
    match = re.match(r"(\d+)\.(\d+)", system.kernel_release)
    number = (int(match.group(1)), int(match.group(2))) if match else (0, 0)
    if number >= _OLDEST_KERNEL:
        yield Line("kernel", "ok", system.kernel_release, wanted)
    else:
        yield Line("kernel", "warn", system.kernel_release, wanted, _KERNEL_MEND)


def config(system: System) -> Iterator[Line]:
    """The kernel's configuration, where it shows one."""
    wanted = "set: " + ", ".join((*_REQUIRED, *_USEFUL))
    found = _read_config(system)
    if found is None:
        seen = "no configuration to read; the other lines say what works"
        yield Line("kernel-config", "ok", seen, wanted)
        return
    name, text = found
    options = set(re.findall(r"^CONFIG_(\w+)=[ym]", text, re.MULTILINE))
    required = [option for option in _REQUIRED if option not in options]
    useful = [option for option in _USEFUL if option not in options]
    if not required and not useful:
        yield Line("kernel-config", "ok", f"all set ({name})", wanted)
        return
    seen = f"not set: {', '.join([*required, *useful])} ({name})"
    yield Line("kernel-config", "fail" if required else "warn", seen, wanted, _KERNEL_MEND)


def _read_config(system: System) -> tuple[str, str] | None:
    """Name and text of the running kernel's configuration."""
    packed = system.path("/proc/config.gz")
    try:
        return "/proc/config.gz", gzip.decompress(packed.read_bytes()).decode(errors="replace")
    except OSError:
        pass
    for name in (f"/boot/config-{system.kernel_release}", "/boot/config"):
        text = system.text(name)
        if text is not None:
            return name, text
    return None


def btf(system: System) -> Iterator[Line]:
    """The kernel's own types, for CO-RE programs."""
    name = "/sys/kernel/btf/vmlinux"
    if system.path(name).exists():
        yield Line("btf", "ok", name, name)
    else:
        yield Line("btf", "fail", "absent", name, _KERNEL_MEND)


def event_sources(system: System) -> Iterator[Line]:
    """Uprobes, which everything needs, and kprobes, which some tracers want."""
    for kind, state in (("uprobe", "fail"), ("kprobe", "warn")):
        name = f"{_EVENT_SOURCES}/{kind}/type"
        if system.path(name).exists():
            yield Line(f"{kind}s", "ok", "the kernel has them", name)
        elif state == "fail":
            yield Line(f"{kind}s", "fail", f"no {name}", name, _KERNEL_MEND)
        else:
            seen = f"no {name}: a tracer that sets kprobes too loses those"
            yield Line(f"{kind}s", "warn", seen, name, _KERNEL_MEND)


def tracefs(system: System) -> Iterator[Line]:
    """Tracepoints; a run mounts tracefs where the kernel has it and nobody did."""
    known = "tracefs" in (system.text("/proc/filesystems") or "").split()
    if known:
        yield Line("tracefs", "ok", "the kernel has it", "tracefs in /proc/filesystems")
    else:
        yield Line("tracefs", "fail", "absent", "tracefs in /proc/filesystems", _KERNEL_MEND)


def bpf(system: System) -> Iterator[Line]:
    """Loading a program, and one that writes into a process as bpftime's daemon does."""
    refused = system.refusal(bpfload.RETURN_0, bpfload.KPROBE)
    wanted = "the kernel takes a program"
    if refused is None:
        yield Line("bpf", "ok", "a program was loaded", wanted)
    else:
        mend = "" if system.is_root else "Connect as root, or as a user with passwordless sudo"
        mend = mend or "Allow it where this container is started, or boot without lockdown"
        yield Line("bpf", "fail", f"refused ({refused})", wanted, mend)
    yield _write_user(system)


def _write_user(system: System) -> Line:
    """Lockdown judged by what it forbids: its file may be absent, or wrong in a container."""
    wanted = "bpf_probe_write_user is allowed (only bpftime's daemon needs it)"
    lockdown = system.text("/sys/kernel/security/lockdown")
    said = f"; lockdown: {lockdown}" if lockdown else ""
    refused = system.refusal(bpfload.WRITE_USER, bpfload.KPROBE)
    if refused is None:
        return Line("bpf-write-user", "ok", f"a program that uses it was loaded{said}", wanted)
    mend = "Write into the host's variables: bpftime_loader: syscall-server"
    return Line("bpf-write-user", "warn", f"refused ({refused}){said}", wanted, mend)


def server_user(system: System) -> Iterator[Line]:
    """Servers run as a user of their own: the right to become one, and to keep a capability."""
    wanted = "a server can have a user of its own, and listen on any port"
    if not system.is_root:
        yield Line("server-user", "ok", "not root: servers run as whoever asks", wanted)
        return
    refused = system.user_refusal()
    if refused is None:
        yield Line("server-user", "ok", "a program ran as one", wanted)
        return
    mend = (
        "Allow CAP_SETUID, CAP_SETGID and CAP_NET_BIND_SERVICE, and users up to "
        f"{serveruser.UIDS[-1]}, where this container is started"
    )
    yield Line("server-user", "fail", f"refused ({refused})", wanted, mend)


def sysctls(system: System) -> Iterator[Line]:
    """perf_event_paranoid and BPF's compiler."""
    paranoid = system.text("/proc/sys/kernel/perf_event_paranoid")
    wanted = "root, or -1"
    if system.is_root or paranoid == "-1":
        seen = f"{paranoid}{', and this is root' if system.is_root else ''}"
        yield Line("perf-event-paranoid", "ok", seen, wanted)
    else:
        mend = "Connect as root, or as a user with passwordless sudo"
        yield Line("perf-event-paranoid", "fail", str(paranoid), wanted, mend)
    for check, wanted, meaning in (
        ("bpf-jit-enable", "1", "every hit is interpreted"),
        ("bpf-jit-harden", "0", "every hit does more work"),
    ):
        name = check.replace("-", "_")
        value = system.text(f"/proc/sys/net/core/{name}")
        if value == wanted:
            yield Line(check, "ok", value, wanted)
        elif value is None:
            yield Line(check, "ok", "not shown by this kernel", wanted)
        else:
            mend = f"sysctl -w net.core.{name}={wanted}"
            yield Line(check, "warn", f"{value}: {meaning}", wanted, mend)


CHECKS = (distribution, release, config, btf, event_sources, tracefs, bpf, server_user, sysctls)
