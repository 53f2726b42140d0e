"""``--tune``: the host's settings for the time of a run, as a transaction.

All values that will be changed are in the journal, synced, before the first one is written; they
are put back at the end of the run, however it ends: by its exit or a signal here, after SIGKILL by
the next run or ``lab.restore``. What is on disk decides, by three values: the old one, ours, and
the one that is there now.

- It is ours: the old one is written, and read again.
- It is the old one: nothing to do. Nothing was written yet, or it is back already.
- It is another one: somebody else changed it meanwhile. It is left, told, and kept in the journal.

After a reboot the kernel has forgotten all that was written here, so another value is the boot's
own and of no interest. One that still equals ours is put back all the same: a container's reboot
keeps the settings of the machine below it, and services that save settings when a machine goes down
bring ours back when it comes up.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from uplab.hostside import cpuplan, knobs
from uplab.hostside.cpuplan import CpuPlan
from uplab.hostside.errors import HostError
from uplab.hostside.knobs import NotTunable, Wish
from uplab.hostside.rundir import utc_now
from uplab.hostside.settings import Settings, reason
from uplab.hostside.tuning_journal import Entry, Journal, Left, Noted

#: Open files that server, tracer and load may have, each.
FILE_LIMIT = 65_536
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_GONE = (errno.ENOENT, errno.ENODEV)


@dataclass(frozen=True)
class Failed:
    """A value of ours that could not be put back; the journal keeps it."""

    entry: Entry
    reason: str


@dataclass
class Restored:
    """What putting back did.

    Args:
        run_id: the run that had changed the values; empty where there was nothing to put back.
        put_back: values that are again what they were.
        left: values that somebody else changed meanwhile, left as they are.
        failed: values that could not be put back.
        after_reboot: whether the machine was started anew since.
        earlier: values that an earlier restore left, which nobody has looked at so far.
    """

    run_id: str = ""
    put_back: list[Entry] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    after_reboot: bool = False
    earlier: list[Left] = field(default_factory=list)

    @property
    def anything(self) -> bool:
        """Whether there was something to put back."""
        return bool(self.run_id)

    def as_json(self) -> dict[str, Any]:
        """For the answer, the event and run.json."""
        return asdict(self)


@dataclass
class Applied:
    """What tuning did: values that were changed, and what this host does not let it set.

    ``noted`` is what the journal holds now.
    """

    noted: Noted
    changed: list[Entry] = field(default_factory=list)
    already: list[Wish] = field(default_factory=list)
    not_tunable: list[NotTunable] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For the event and run.json."""
        changed = [{k: getattr(e, k) for k in ("knob", "path", "old", "new")} for e in self.changed]
        return {
            "changed": changed,
            "already": [asdict(wish) for wish in self.already],
            "not_tunable": [asdict(each) for each in self.not_tunable],
        }


def apply(settings: Settings, journal: Journal, run_id: str, wishes: Sequence[Wish]) -> Applied:
    """Set values, each noted on disk before the first one is written.

    Args:
        settings: of the host.
        journal: where what they were is noted.
        run_id: the run that it is for.
        wishes: the values.

    Raises:
        HostError: the journal is damaged.
        OSError: the journal cannot be written.
    """
    applied = Applied(journal.load())
    # What an earlier run changed and could not be put back stays noted with its first value.
    pending = applied.noted.entries
    entries = [
        entry for wish in wishes if (entry := _entry(settings, pending, wish, applied)) is not None
    ]
    if not entries:
        return applied
    applied.noted = Noted(run_id, (*pending, *entries))
    journal.save(applied.noted)
    kept = [entry for each in entries if (entry := _set(settings, each, applied)) is not None]
    if kept != entries:
        applied.noted = Noted(run_id, (*pending, *kept))
        journal.save(applied.noted)
    return applied


def _entry(
    settings: Settings, pending: Sequence[Entry], wish: Wish, applied: Applied
) -> Entry | None:
    """What to note for a wish; None where nothing is to be changed."""
    try:
        old = settings.read(wish.path)
        boot_id = settings.read(_BOOT_ID)
    except OSError as error:
        applied.not_tunable.append(NotTunable(wish.knob, f"{wish.path}: {reason(error)}"))
        return None
    if any(entry.path == wish.path for entry in pending):
        text = f"{wish.path}: what an earlier run changed could not be put back"
        applied.not_tunable.append(NotTunable(wish.knob, text))
        return None
    if old == wish.new:
        applied.already.append(wish)
        return None
    return Entry(wish.knob, wish.path, old, wish.new, utc_now(), boot_id)


def _set(settings: Settings, entry: Entry, applied: Applied) -> Entry | None:
    """Write one value that is noted; out: what has to stay noted, None where nothing was changed.

    The kernel may take a value and make another one of it: then the old one is written again.
    """
    try:
        found: str | None = settings.read(entry.path)
        if found != entry.old:
            cause = f"somebody else changes it now ({entry.old} became {found})"
            applied.not_tunable.append(NotTunable(entry.knob, f"{entry.path}: {cause}"))
            return None
        settings.write(entry.path, entry.new)
        found = settings.read(entry.path)
        cause = f"the kernel made {found} of {entry.new}"
    except OSError as error:
        cause = reason(error)
        found = settings.get(entry.path)
    if found == entry.new:
        applied.changed.append(entry)
        return entry
    applied.not_tunable.append(NotTunable(entry.knob, f"{entry.path}: {cause}"))
    if found == entry.old:
        return None
    ours = entry if found is None else replace(entry, new=found)
    return None if _put_back(settings, ours) is None else ours


def restore(settings: Settings, journal: Journal, noted: Noted | None = None) -> Restored:
    """Put back what a run changed and what is still as it set it.

    Args:
        settings: of the host.
        journal: what was changed; afterwards what could not be put back, and what was left.
        noted: what was changed, where that is known better than from the disk.

    Raises:
        HostError: the journal is damaged: nothing was changed.
        OSError: the journal cannot be written; it then says more than is left to do, which does
            no harm.
    """
    noted = journal.load() if noted is None else noted
    restored = Restored(earlier=list(noted.left))
    if not noted.entries:
        return restored
    restored.run_id = noted.run_id
    boot_id = settings.get(_BOOT_ID)
    # The last one first: one setting may bear on another.
    for entry in reversed(noted.entries):
        rebooted = entry.boot_id != boot_id
        restored.after_reboot |= rebooted
        _restore_one(settings, entry, restored, rebooted=rebooted)
    failed = tuple(reversed([each.entry for each in restored.failed]))
    journal.save(Noted(noted.run_id, failed, (*noted.left, *restored.left)))
    return restored


def _restore_one(settings: Settings, entry: Entry, restored: Restored, *, rebooted: bool) -> None:
    try:
        found = settings.read(entry.path)
    except OSError as error:
        # An interrupt or a CPU that is gone has nothing that could be put back.
        if error.errno not in _GONE:
            restored.failed.append(Failed(entry, reason(error)))
        return
    if found == entry.new:
        failed = _put_back(settings, entry)
        if failed is None:
            restored.put_back.append(entry)
        else:
            restored.failed.append(Failed(entry, failed))
    elif found != entry.old and not rebooted:
        restored.left.append(Left(entry, found, utc_now()))


def _put_back(settings: Settings, entry: Entry) -> str | None:
    """Write the old value and look; out: why it is not there now, None where it is."""
    try:
        settings.write(entry.path, entry.old)
        found = settings.read(entry.path)
    except OSError as error:
        return reason(error)
    return None if found == entry.old else f"the kernel made {found} of {entry.old}"


class Tuning:
    """A run's tuning.

    Args:
        settings: of the host.
        journal: the path of the journal.
    """

    def __init__(self, settings: Settings, journal: Path) -> None:
        self._settings = settings
        self._journal = Journal(journal)
        #: For run.json; None where the run does not tune.
        self.record: dict[str, Any] | None = None

    def restore(self, noted: Noted | None = None) -> Restored:
        """Put back what a run changed that did not end by itself; see :func:`restore`.

        Raises:
            HostError: the journal is damaged, or cannot be written.
        """
        with _journal_errors(self._journal):
            return restore(self._settings, self._journal, noted)

    @contextmanager
    def hold(self, run_id: str, emit: Callable[..., None]) -> Iterator[CpuPlan | None]:
        """While open, the host is tuned; out: who runs on which CPUs, None where all share them.

        Args:
            run_id: noted in the journal.
            emit: is called with an event's name and details.

        Raises:
            HostError: the journal cannot be written, or something could not be put back.
        """
        plan = cpuplan.make(self._settings, frozenset(os.sched_getaffinity(0)))
        wanted, lacking = knobs.wishes(self._settings, plan)
        if plan is None:
            text = f"fewer than {cpuplan.LEAST_CPUS} CPUs: server, tracer and load share them"
            lacking.append(NotTunable("cpu-affinity", text))
        noted: Noted | None = None
        try:
            with ExitStack() as own:
                # For hostside and its children alone: these end with them.
                own.enter_context(cpuplan.on(plan, "load"))
                limit, against = own.enter_context(_file_limit())
                with _journal_errors(self._journal):
                    applied = apply(self._settings, self._journal, run_id, wanted)
                noted = applied.noted
                applied.not_tunable += [*lacking, *against]
                self.record = applied.as_json() | {
                    "cpus": None if plan is None else plan.as_json(),
                    "file_limit": limit,
                    "restored": None,
                }
                emit("tuned", **self.record)
                yield plan
        finally:
            # Where setting them was cut short, the disk knows what was noted. Else we do, also
            # when somebody took the journal away.
            restored = self.restore(noted)
            if self.record is not None:
                self.record["restored"] = restored.as_json()
            if restored.anything:
                emit("tuning-restored", **restored.as_json())
        if restored.failed:
            raise HostError(said_failed(restored, self._journal.path))


def said_failed(restored: Restored, journal: Path) -> str:
    """One line about values that could not be put back."""
    first = restored.failed[0]
    more = f" and {len(restored.failed) - 1} more" if len(restored.failed) > 1 else ""
    return (
        f"this host is still tuned: {first.entry.path} could not be put back to "
        f"{first.entry.old} ({first.reason}){more}, as {journal} says. Run: invoke lab.restore"
    )


@contextmanager
def _journal_errors(journal: Journal) -> Iterator[None]:
    """A journal that cannot be written stops what would change the host."""
    try:
        yield
    except OSError as error:
        text = "without it, what was changed on this host would not be known"
        raise HostError(f"{journal.path} cannot be written ({reason(error)}): {text}") from error


@contextmanager
def _file_limit() -> Iterator[tuple[int, list[NotTunable]]]:
    """While open, our children may open ``FILE_LIMIT`` files; out: how many they may."""
    before = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    against = []
    try:
        wanted = _at_least(soft, FILE_LIMIT), _at_least(hard, FILE_LIMIT)
        resource.setrlimit(resource.RLIMIT_NOFILE, wanted)
    except (ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        text = f"{hard} files is this process's hard limit, and it may not raise it"
        against.append(NotTunable("file-limit", text))
    try:
        yield resource.getrlimit(resource.RLIMIT_NOFILE)[0], against
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def _at_least(limit: int, least: int) -> int:
    return limit if limit == resource.RLIM_INFINITY else max(limit, least)
