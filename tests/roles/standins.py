"""Stand-ins for what upstream publishes: tiny projects with the same interface, served from a path.

They prove how sources are fetched, pinned, built, kept and replaced; of bpftime, DeepFlow and the
toolchains themselves they prove nothing.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.roles.plays import PLAYBOOKS

#: Nobody's address: whatever is fetched came through ``uplab_mirrors``.
UPSTREAM = "https://upstream.example.invalid/"
AUTHOR = {
    "GIT_AUTHOR_NAME": "stand-in",
    "GIT_AUTHOR_EMAIL": "stand-in@example.invalid",
    "GIT_COMMITTER_NAME": "stand-in",
    "GIT_COMMITTER_EMAIL": "stand-in@example.invalid",
    "GIT_CONFIG_GLOBAL": "/dev/null",
}

CMAKE_PROJECT = """\
cmake_minimum_required(VERSION 3.16)
project(stand_in_for_bpftime CXX)
option(BPFTIME_ENABLE_CCACHE "" OFF)
if(NOT BPFTIME_ENABLE_CCACHE OR NOT LLVM_DIR OR NOT BPFTIME_LLVM_JIT)
  message(FATAL_ERROR "an option is missing")
endif()
if(NOT EXISTS ${CMAKE_SOURCE_DIR}/third_party/frida/devkit.tar.xz)
  message(FATAL_ERROR "the devkit is missing")
endif()
find_program(CLANG clang REQUIRED)
message(STATUS "clang is ${CLANG}")
set_property(GLOBAL PROPERTY RULE_LAUNCH_COMPILE ccache)
function(place target folder name)
  set_target_properties(${target} PROPERTIES OUTPUT_NAME ${name}
    RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/${folder}
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/${folder})
endfunction()
foreach(target bpftime-cli-cpp bpftimetool bpftime_daemon)
  add_executable(${target} main.cpp third_party/part/part.cpp)
endforeach()
foreach(target bpftime-agent bpftime-syscall-server)
  add_library(${target} SHARED third_party/part/part.cpp)
endforeach()
place(bpftime-cli-cpp tools/cli bpftime)
place(bpftimetool tools/bpftimetool bpftimetool)
place(bpftime_daemon daemon bpftime_daemon)
place(bpftime-agent runtime/agent bpftime-agent)
place(bpftime-syscall-server runtime/syscall-server bpftime-syscall-server)
"""
MAIN_CPP = """\
#include <cstdio>
const char *part();
int main() { std::printf("stand-in %s\\n", part()); }
"""
PART_CPP = 'const char *part() { return "part"; }\n'

RUST_SAMPLE = """\
rust-sample:
\t$(CLANG) --version
\t$(LLC) --version
\tcargo --version
\trustc --version
\tmkdir -p samples/rust/target/release
\t$(CC) -o samples/rust/target/release/rust_sample main.c libbpf/src/bpf.c -lbddisasm -ldwarf
"""
SAMPLE_C = """\
#include <stdio.h>
#include <bddisasm/bddisasm.h>
#include <libdwarf-0/libdwarf.h>
int bpf(void);
int main(void) { printf("stand-in %d\\n", bpf() + bddisasm() + dwarf()); }
"""
BDDISASM_MAKEFILE = """\
install:
\ttest "$(RELEASE)" = y
\t$(CC) -c -o part.o part.c
\tmkdir -p $(PREFIX)/lib $(PREFIX)/include/bddisasm
\tar rcs $(PREFIX)/lib/libbddisasm.a part.o
\tcp bddisasm.h $(PREFIX)/include/bddisasm/
"""
LIBDWARF_CONFIGURE = """\
#!/bin/sh
test "$CFLAGS" = -fpic || exit 3
for word in "$@"; do
  case $word in --prefix=*) echo "PREFIX = ${word#--prefix=}" > place.mk;; esac
done
"""
LIBDWARF_MAKEFILE = """\
include place.mk
install:
\t$(CC) -c -o part.o part.c
\tmkdir -p $(PREFIX)/lib $(PREFIX)/include/libdwarf-0
\tar rcs $(PREFIX)/lib/libdwarf.a part.o
\tcp libdwarf.h $(PREFIX)/include/libdwarf-0/
"""
RUST_INSTALLER = """\
#!/bin/sh
for word in "$@"; do case $word in --prefix=*) prefix=${word#--prefix=};; esac; done
mkdir -p "$prefix/bin" && cp bin/* "$prefix/bin/"
"""


def git(*arguments: str, chdir: Path) -> str:
    """What git prints."""
    done = subprocess.run(
        ["git", *arguments],
        cwd=chdir,
        env={**os.environ, **AUTHOR},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def write_tree(top: Path, files: dict[str, str]) -> None:
    """Files by their paths; scripts are executable."""
    for name, text in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if text.startswith("#!") else 0o644)


def commit(top: Path, files: dict[str, str], modules: dict[str, tuple[str, str]]) -> str:
    """Commit files, and submodules as path: (address, commit); returns the new commit."""
    if not (top / ".git").exists():
        top.mkdir(parents=True)
        git("init", "--quiet", "--initial-branch=master", chdir=top)
    sections = [
        f'[submodule "{path}"]\n\tpath = {path}\n\turl = {url}\n'
        for path, (url, _) in modules.items()
    ]
    write_tree(top, files | ({".gitmodules": "".join(sections)} if modules else {}))
    git("add", "--all", chdir=top)
    for path, (_, link) in modules.items():
        git("update-index", "--add", "--cacheinfo", f"160000,{link},{path}", chdir=top)
    git("commit", "--quiet", "--allow-empty", "--message", "stand-in", chdir=top)
    return git("rev-parse", "HEAD", chdir=top)


def pack(path: Path, files: dict[str, str]) -> str:
    """A tar archive with one leading directory; returns its sha256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:xz" if path.suffix == ".xz" else "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"{path.name.split('.')[0]}/{name}")
            member.size = len(text.encode())
            member.mode = 0o755 if text.startswith("#!") else 0o644
            tar.addfile(member, io.BytesIO(text.encode()))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass
class Upstream:
    """Stand-ins of all that the heavy components come from, and the variables that lead there."""

    top: Path
    pins: dict[str, Any] = field(default_factory=dict)

    @property
    def repositories(self) -> Path:
        """The directory of the repositories."""
        return self.top / "git"

    @property
    def archives(self) -> Path:
        """The directory of the archives."""
        return self.top / "archives"

    def variables(self) -> dict[str, Any]:
        """Pins of the stand-ins, and the mirrors that serve them."""
        mirrors = {
            "git": {UPSTREAM: f"file://{self.repositories}/"},
            "archives": f"file://{self.archives}",
        }
        return {"uplab_pins": self.pins, "uplab_mirrors": mirrors, "rust_policy": "upstream"}

    def make(self) -> None:
        """Make all of it, and the pins: the real ones with the stand-ins in their places."""
        text = (PLAYBOOKS / "group_vars" / "all" / "pins.yml").read_text()
        self.pins = yaml.safe_load(text)["uplab_pins"]
        self.pins["llvm"] |= {
            "majors": {"12": 14, "13": 19},
            "packages_by_release": {"12": ["clang-14", "llvm-14"], "13": ["clang-19", "llvm-19"]},
        }
        self.make_bpftime()
        self.make_deepflow()
        self.make_toolchains()

    def make_bpftime(self) -> None:
        """A CMake project with two levels of submodules, one by a relative address."""
        inner = commit(self.repositories / "inner", {"inner.txt": "inner\n"}, {})
        part = commit(
            self.repositories / "part",
            {"part.cpp": PART_CPP},
            {"inner": ("../inner", inner)},
        )
        top = commit(
            self.repositories / "bpftime",
            {"CMakeLists.txt": CMAKE_PROJECT, "main.cpp": MAIN_CPP},
            {"third_party/part": (f"{UPSTREAM}part", part)},
        )
        devkit = pack(self.archives / "devkit.tar.xz", {"devkit.txt": "devkit\n"})
        self.pins["bpftime"] |= {
            "version": "stand-in",
            "url": f"{UPSTREAM}bpftime",
            "commit": top,
            "archives": [{"url": f"{UPSTREAM}devkit.tar.xz", "sha256": devkit}],
            "packages": ["ccache", "cmake", "g++", "gcc", "git", "make"],
        }

    def make_deepflow(self) -> None:
        """A Makefile project with a submodule, and the two libraries that it links."""
        files = {"src/bpf.c": "int bpf(void) { return 1; }\n"}
        library = commit(self.repositories / "libbpf.git", files, {})
        ebpf = "agent/src/ebpf"
        top = commit(
            self.repositories / "deepflow",
            {f"{ebpf}/Makefile": RUST_SAMPLE, f"{ebpf}/main.c": SAMPLE_C},
            {f"{ebpf}/libbpf": (f"{UPSTREAM}libbpf.git", library)},
        )
        files = {
            "bddisasm/Makefile": BDDISASM_MAKEFILE,
            "bddisasm/part.c": "int bddisasm(void) { return 2; }\n",
            "bddisasm/bddisasm.h": "int bddisasm(void);\n",
        }
        bddisasm = commit(self.repositories / "bddisasm", files, {})
        files = {
            "configure": LIBDWARF_CONFIGURE,
            "Makefile": LIBDWARF_MAKEFILE,
            "part.c": "int dwarf(void) { return 4; }\n",
            "libdwarf.h": "int dwarf(void);\n",
        }
        libdwarf = pack(self.archives / "libdwarf-0.tar.xz", files)
        self.pins["deepflow"] |= {
            "version": "stand-in",
            "url": f"{UPSTREAM}deepflow",
            "commit": top,
            "bddisasm": {"url": f"{UPSTREAM}bddisasm", "commit": bddisasm},
            "libdwarf": {"url": f"{UPSTREAM}libdwarf-0.tar.xz", "sha256": libdwarf},
            "packages": ["gcc", "git", "make", "xz-utils"],
        }

    def make_toolchains(self) -> None:
        """Archives like those of Rust and Go; the Go in it is the distribution's."""
        version = '#!/bin/sh\necho "$(basename "$0") stand-in"\n'
        files = {"install.sh": RUST_INSTALLER, "bin/rustc": version, "bin/cargo": version}
        rust = pack(self.archives / "rust-1.tar.xz", files)
        self.pins["rust"]["upstream"] |= {"url": f"{UPSTREAM}rust-1.tar.xz", "sha256": rust}
        forward = '#!/bin/sh\nexec /usr/bin/$(basename "$0") "$@"\n'
        files = {"bin/go": forward, "bin/gofmt": forward, "VERSION": "stand-in\n"}
        go = pack(self.archives / "go-1.tar.gz", files)
        self.pins["golang"]["upstream"] |= {"url": f"{UPSTREAM}go-1.tar.gz", "sha256": go}
