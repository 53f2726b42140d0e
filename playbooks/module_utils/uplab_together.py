# SPDX-License-Identifier: Apache-2.0
"""Several builds at the same time, on as many processors and as much memory as there are."""

from __future__ import annotations

import os
import queue
import select
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import TypeVar

from ansible.module_utils.uplab_commands import Commands

Item = TypeVar("Item")
Answer = TypeVar("Answer")

#: What one compiler of C++ may take; fewer run at once where less is free.
MEMORY_PER_JOB_BYTES = 1 << 30
_LET_GO = select.POLLERR | select.POLLHUP


class Interrupted(Exception):
    """Something from outside asked all builds to end; the text says what."""


def free_slots() -> int:
    """How many compilers may run at once: one a processor, fewer where memory is short."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    available = next(line for line in lines if line.startswith("MemAvailable:"))
    by_memory = int(available.split()[1]) * 1024 // MEMORY_PER_JOB_BYTES
    return max(1, min(len(os.sched_getaffinity(0)), by_memory))


class Slots:
    """The right to run one compiler, this many times, for all builds together.

    A build that begins takes one slot; the others lie in a pipe as make's job server knows it, and
    every make and cargo of every build takes what it needs from there.  So two heavy builds never
    run more compilers than one of them alone would, which is what memory was counted for, and
    when one of them waits or has ended, the other one gets all processors.
    """

    def __init__(self, total: int, builds: int) -> None:
        self.total = total
        self.at_once = max(1, min(total, builds))
        self._reading, self._writing = os.pipe()
        # Two makes may see the same slot, and the one that comes late must not wait for another.
        os.set_blocking(self._reading, False)
        os.write(self._writing, b"+" * (total - self.at_once))

    def __enter__(self) -> Slots:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._reading)
        os.close(self._writing)

    @property
    def descriptors(self) -> tuple[int, int]:
        """What commands have to inherit for :attr:`makeflags` to mean anything."""
        return self._reading, self._writing

    @property
    def makeflags(self) -> str:
        """How make and cargo are told; a ``-j`` of their own would leave the others out."""
        return f" -j{self.total} --jobserver-auth={self._reading},{self._writing}"

    def give_back(self) -> None:
        """A build needs its slot no more: for the compilers of those that go on."""
        os.write(self._writing, b"+")


def run_together(
    items: Sequence[Item], work: Callable[[Item], Answer], slots: Slots, commands: Commands
) -> list[Answer]:
    """Do something with each item, as many at once as there are slots.

    Args:
        items: those first in the list begin first.
        work: runs in a thread of its own; when ``commands`` are stopped it ends soon. What it
            raises is a fault that ends all the others and is raised again.
        slots: one is given back for each worker that finds nothing more to do.
        commands: what ``work`` runs its commands with.

    Returns:
        What ``work`` returned, in the order of the items.

    Raises:
        Interrupted: by SIGINT, SIGTERM or SIGHUP, or because nobody waits for the answer any more;
            all commands have ended.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(items)):
        waiting.put(number)
    answers: dict[int, Answer] = {}
    faults: list[BaseException] = []

    def worker() -> None:
        try:
            while True:
                number = waiting.get_nowait()
                answers[number] = work(items[number])
        except queue.Empty:
            slots.give_back()
        except BaseException as error:
            faults.append(error)
            commands.stop()
        finally:
            os.write(writing, b"\0")

    with open_pipe() as (reading, writing), told_by_signals(writing):
        threads = [threading.Thread(target=worker) for _ in range(slots.at_once)]
        try:
            for thread in threads:
                thread.start()
            why = wait_for_all(len(threads), reading, commands)
        finally:
            for thread in threads:
                thread.join()
    if faults:
        raise faults[0]
    if why:
        raise Interrupted(why)
    return [answers[number] for number in range(len(items))]


@contextmanager
def open_pipe() -> Iterator[tuple[int, int]]:
    """Both ends of a pipe, closed afterwards."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


def wait_for_all(workers: int, reading: int, commands: Commands) -> str:
    """Wait until each worker has written a zero; returns what stopped them, or an empty text."""
    why = ""
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    # A connection that breaks sends no signal to what it started; but its end of stdout is gone.
    poll.register(1, 0)
    while workers:
        for descriptor, event in poll.poll():
            if descriptor == reading:
                number = os.read(reading, 1)[0]
                workers -= number == 0
                why = why or (signal.Signals(number).name if number else "")
            else:
                poll.unregister(1)
                why = why or ("the end of its connection" if event & _LET_GO else "")
        if why:
            commands.stop()
    return why


@contextmanager
def told_by_signals(writing: int) -> Iterator[None]:
    """Write the number of a signal into a pipe instead of dying of it.

    Only the main thread may; a module that dies in another one takes all commands along, and what
    they left is removed by the next build.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def tell(number: int, _frame: FrameType | None) -> None:
        os.write(writing, bytes([number]))

    # Some strategies run modules inside a process that lives on, hence the way back.
    asked = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    saved = {number: signal.signal(number, tell) for number in asked}
    try:
        yield
    finally:
        for number, handler in saved.items():
            signal.signal(number, handler)


@contextmanager
def all_processors() -> Iterator[None]:
    """Let compilers run on every processor: some strategies pin the process that runs modules."""
    saved = os.sched_getaffinity(0)
    # The kernel takes out what the control group of this process may not use.
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    try:
        yield
    finally:
        os.sched_setaffinity(0, saved)
