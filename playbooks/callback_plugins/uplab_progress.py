# SPDX-License-Identifier: Apache-2.0
"""Ansible callback plugin: what is being built or installed, for how long, and how long it took."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
---
name: uplab_progress
type: notification
short_description: Progress of builds and of apt
version_added: "0.1.0"
description:
  - While the module C(uplab_build) or C(uplab_packages) runs, says which components are built on
    which host, for how long, and how long that took last time, if the host knows.
  - On a terminal that is one line that changes every second, elsewhere a line every 30 seconds.
    In the end a line says how long each component took.
  - A module says nothing before it has ended, so the times count from its start. Only on this
    machine itself a component that is done can be seen to be and is left out; of another host it
    is shown until all of them are done. The last line has the time of each.
  - It writes to the file descriptor that the environment variable C(UPLAB_PROGRESS_FD) names;
    without it the plugin does nothing. C(UPLAB_PROGRESS_EVERY_S) changes the 30 seconds.
requirements:
  - Switched on by C(ANSIBLE_CALLBACKS_ENABLED).
author:
  - The uplab authors
"""

LIVE_EVERY_S = 1.0
PLAIN_EVERY_S = 30.0
CLEAR_LINE = "\r\x1b[K"
APT = "Debian packages"
LOCAL = ("local", "ansible.builtin.local")


@dataclass(frozen=True)
class Work:
    """What a host does since a moment of the monotonic clock; last times by name.

    ``store`` is the host's store where that lies on this machine.
    """

    names: tuple[str, ...]
    began_s: float
    known_s: dict[str, float]
    store: Path | None = None
    _seen: set[str] = field(default_factory=set)

    def goes_on(self, name: str) -> bool:
        """Whether a component may still be in the making: what it is made in is there, or was not.

        The module uplab_build makes it in a directory of that name.
        """
        if self.store is None:
            return True
        if any(self.store.glob(f".part-{name}-*")):
            self._seen.add(name)
            return True
        return name not in self._seen

    def text(self, now_s: float) -> str:
        """Each name with its time so far, and how long it may take."""
        elapsed = duration(now_s - self.began_s)
        parts = [
            f"{name} {elapsed}"
            + (f" of about {duration(self.known_s[name])}" if name in self.known_s else "")
            for name in self.names
            if self.goes_on(name)
        ]
        return ", ".join(parts) or f"finishing {elapsed}"


def duration(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Screen:
    """Where progress is shown: a terminal has a line that changes, anything else gets lines."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor: int | None = descriptor
        self.live = os.isatty(descriptor)
        self._shown = False

    def show(self, text: str) -> None:
        """Put a line in the place of the one that is shown, or below the others."""
        if not self.live:
            self._write(f"{text}\n")
            return
        # A line that wraps could not be taken away again.
        columns = os.get_terminal_size(self.descriptor or 0).columns or 80
        self._write(f"{CLEAR_LINE}{text[: columns - 1]}")
        self._shown = True

    def clear(self) -> None:
        """Take the line that changes away: something else is to be written."""
        if self._shown:
            self._write(CLEAR_LINE)
            self._shown = False

    def say(self, text: str) -> None:
        """Write a line that stays."""
        self.clear()
        self._write(f"{text}\n")

    def _write(self, text: str) -> None:
        """Past Python's buffers, whose locks a forked worker would inherit; gone readers end it."""
        data = text.encode()
        try:
            while data and self.descriptor is not None:
                data = data[os.write(self.descriptor, data) :]
        except OSError:
            self.descriptor = None


class Ticker:
    """Shows all that is going on, again and again, while there is something."""

    def __init__(self, screen: Screen, every_s: float) -> None:
        self._screen, self._every_s = screen, every_s
        self._changed = threading.Condition()
        self._works: dict[str, Work] = {}
        self._thread: threading.Thread | None = None

    def begin(self, host: str, work: Work) -> None:
        """A host has begun to work."""
        with self._changed:
            self._works[host] = work
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()
            self._changed.notify()

    def end(self, host: str) -> Work | None:
        """A host has finished; what it worked on."""
        with self._changed:
            self._screen.clear()
            self._changed.notify()
            return self._works.pop(host, None)

    def say(self, text: str) -> None:
        """Write a line that stays."""
        with self._changed:
            self._screen.say(text)

    def aside(self, write: Callable[..., Any]) -> Callable[..., Any]:
        """A function that writes to the same place, made to take the line away first."""
        owner = os.getpid()

        def written(*arguments: Any, **more: Any) -> Any:
            # A forked worker has no ticker, and perhaps a lock that nobody will release.
            if os.getpid() != owner:
                return write(*arguments, **more)
            with self._changed:
                self._screen.clear()
                return write(*arguments, **more)

        return written

    def _run(self) -> None:
        with self._changed:
            while True:
                self._changed.wait_for(lambda: bool(self._works))
                # What takes no time is not worth a line.
                if not self._changed.wait_for(lambda: not self._works, self._every_s):
                    self._screen.show(self.line(time.monotonic()))

    def line(self, now_s: float) -> str:
        """What all hosts are doing."""
        return "; ".join(f"{host}: {work.text(now_s)}" for host, work in self._works.items())


class CallbackModule(CallbackBase):
    """Follows builds and apt from task to task."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "uplab_progress"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        # What roles have asked for, and the last times, by host.
        self.asked: dict[str, list[str]] = {}
        self.known_s: dict[str, dict[str, float]] = {}
        self.stores: dict[str, Path] = {}
        self.play: Any = None
        named = os.environ.get("UPLAB_PROGRESS_FD", "")
        self.disabled = not named.isdigit()
        if self.disabled:
            return
        if int(named) > 2:
            # Connections that outlive the play must not hold the descriptor open.
            os.set_inheritable(int(named), False)
        screen = Screen(int(named))
        plain_s = float(os.environ.get("UPLAB_PROGRESS_EVERY_S", PLAIN_EVERY_S))
        self.ticker = Ticker(screen, LIVE_EVERY_S if screen.live else plain_s)
        if screen.live:
            # What Ansible itself prints would be written into the line.
            self._display.display = self.ticker.aside(self._display.display)

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Remember who knows the variables of hosts."""
        self.play = play

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        """Something that may take long begins."""
        name = host.get_name()
        names = self.names_of(name, task)
        if names:
            known = {n: s for n, s in self.known_s.get(name, {}).items() if n in names}
            store = self.stores.get(name) if self.is_here(host) else None
            self.ticker.begin(name, Work(tuple(names), time.monotonic(), known, store))

    def v2_runner_on_ok(self, result: Any) -> None:
        """Learn from a probe or a wish of a role, or say how long it took."""
        host, found = result.host.get_name(), result.result
        if found.get("prefix"):
            self.stores[host] = Path(found["prefix"]).parent
        if found.get("last_build_s"):
            self.known_s.setdefault(host, {})[found["component"]] = found["last_build_s"]
        for fact in (found.get("ansible_facts") or {}).values():
            if isinstance(fact, dict) and "recipe" in fact and "component" in fact:
                self.asked.setdefault(host, []).append(str(fact["component"]))
        self.ended(result)

    def v2_runner_on_failed(self, result: Any, **_more: Any) -> None:
        """What was finished before the failure is said, too."""
        self.ended(result)

    def v2_runner_on_skipped(self, result: Any) -> None:
        """It was not needed."""
        self.ended(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """The host has gone."""
        self.ended(result)

    def is_here(self, host: Any) -> bool:
        """Whether a host is this machine itself, so that its store can be looked at."""
        if self.play is None:
            return False
        variables = self.play.get_variable_manager().get_vars(play=self.play, host=host)
        return variables.get("ansible_connection") in LOCAL

    def names_of(self, host: str, task: Any) -> list[str]:
        """What a task works on: names of components, or apt's one word; [] for all other tasks."""
        if task.action == "uplab_packages":
            return [APT]
        if task.action != "uplab_build":
            return []
        builds = task.args.get("builds")
        if isinstance(builds, list):
            # Written out in a role: a toolchain that others need.
            return [str(build["component"]) for build in builds]
        return self.asked.get(host, [])

    def ended(self, result: Any) -> None:
        """Take a host's work away, and say what it took."""
        host, found = result.host.get_name(), result.result
        if result.task.action not in ("uplab_build", "uplab_packages"):
            return
        work = self.ticker.end(host)
        took = {
            name: answer["build_s"]
            for name, answer in (found.get("builds") or {}).items()
            if "build_s" in answer
        }
        if work and APT in work.names and found.get("changed"):
            took[APT] = time.monotonic() - work.began_s
        if took:
            parts = [f"{name} in {duration(seconds)}" for name, seconds in took.items()]
            self.ticker.say(f"{host}: {', '.join(parts)}")
