"""What is going on: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from uplab import plan as planning
from uplab.hostside.spec import Plan


class Estimate:
    """How long a run still takes: planned times, scaled by how long trials really took."""

    def __init__(self, plan: Plan) -> None:
        self._cells = {cell.id: planning.trial_s(plan, cell) for cell in plan.cells}
        self._left_s = planning.duration_s(plan)
        self._planned_s = self._real_s = 0.0

    def add_block(self) -> None:
        """A block is measured again."""
        self._left_s += sum(self._cells.values())

    def add_trial(self, cell_id: str, wall_s: float) -> None:
        """A trial has ended."""
        self._left_s = max(self._left_s - self._cells[cell_id], 0.0)
        self._planned_s += self._cells[cell_id]
        self._real_s += wall_s

    @property
    def left_s(self) -> float:
        """Seconds until the last trial ends, as expected now."""
        scale = self._real_s / self._planned_s if self._planned_s else 1.0
        return self._left_s * scale


class Progress:
    """Shows the events of a run; a context manager, because a live line must be ended."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        # Of a run that is taken up again, trials are numbered on from the earlier ones.
        self._trials = plan.earlier.number + planning.trials(plan)
        self._estimate = Estimate(plan)
        self._live = sys.stdout.isatty()
        self._status: Any = None
        self._last = ""
        self._console: Any = None

    def __enter__(self) -> Progress:
        if self._live:
            from rich.console import Console

            self._console = Console()
            self._status = self._console.status("starting")
            self._status.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def show(self, event: dict[str, Any]) -> None:
        """Take in one event of hostside."""
        name = event.get("event")
        if name == "trial-start":
            self._begin(event)
        elif name == "trial-end":
            self._end(event)
        elif name == "block-again":
            self._trials += len(self._plan.cells)
            self._estimate.add_block()
            self._print(f"block {event['block']} is measured again: it has an invalid trial")
        elif name == "leftovers-ended":
            self._print(f"ended what an earlier run left: {', '.join(event['processes'])}")

    def note(self, line: str) -> None:
        """Say something that is no event of the run."""
        self._print(line)

    def _begin(self, event: dict[str, Any]) -> None:
        if self._status is None:
            return
        until = time.strftime("%H:%M:%S", time.localtime(time.time() + self._estimate.left_s))
        # Here, because only a terminal needs it.
        from rich.text import Text

        text = (
            f"trial {event['number']}/{self._trials}, block {event['block']}/{self._plan.blocks}: "
            f"{event['cell']}, {self._last}ends about {until}"
        )
        self._status.update(Text(_clean(text)))

    def _end(self, event: dict[str, Any]) -> None:
        self._estimate.add_trial(event["cell"], event["wall_s"])
        rate = event.get("requests_per_s")
        said = "no figure" if rate is None else f"{rate:,.0f} req/s"
        self._last = f"last {said}, "
        number = event["trial"].split("-", 1)[0]
        verdict = event["verdict"]
        flags = f" (noisy: {'; '.join(verdict['flags'])})" if verdict["flags"] else ""
        if not verdict["valid"]:
            said += "  INVALID: " + "; ".join(r["text"] for r in verdict["reasons"])
        self._print(
            f"{int(number):>4}/{self._trials}  {event['cell']:<40} {said}{flags}"
            f"  [{planning_duration(self._estimate.left_s)} left]"
        )

    def _print(self, line: str) -> None:
        if self._console is not None:
            self._console.print(_clean(line), markup=False, highlight=False)
        else:
            print(_clean(line), flush=True)


def _clean(text: str) -> str:
    """What a host says cannot move the cursor."""
    return "".join(c if c.isprintable() else "?" for c in text)


def planning_duration(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def duration_in_words(seconds: float) -> str:
    """``1 h 2 min``, ``2 min 3 s`` or ``3 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
