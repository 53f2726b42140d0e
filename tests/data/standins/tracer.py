#!/usr/bin/python3
"""A stand-in for a tracer: it sets no probe, and behaves as its first argument says.

claims   says that it is attached and counts what a tracer would, without touching the process
silent   never says anything
mute     says that it is attached and gives no counters
lossy    as claims, and reports lost events
flood    as claims, and prints 40 MB first
dies     ends before it is attached, with a last line
"""

import json
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from uplab.hostside import elf

SYMBOL = "runtime.casgstatus"
FLOOD_BYTES = 40 << 20


def main() -> None:
    behaviour, pid = sys.argv[1], int(sys.argv[2])
    offset = elf.symbols(Path(f"/proc/{pid}/exe"), [SYMBOL])[SYMBOL].offset
    reads = 0

    def say(event: str) -> None:
        hits = 100_000 * reads
        lost = 7 * reads if behaviour == "lossy" else 0
        message = {
            "event": event,
            "attach": "uprobe_multi",
            "sites": [{"name": "casgstatus", "offset": offset, "hits": hits}],
            "events": {"emitted": hits, "received": hits - lost, "lost": lost},
        }
        print(json.dumps(message), flush=True)

    def counters(_number: int, _frame: FrameType | None) -> None:
        nonlocal reads
        reads += 1
        if behaviour != "mute":
            say("counters")

    signal.signal(signal.SIGUSR1, counters)
    if behaviour == "dies":
        sys.exit("stand-in: cannot attach")
    if behaviour == "flood":
        for _ in range(FLOOD_BYTES // 1024):
            print("x" * 1023)
    if behaviour != "silent":
        say("attached")
    while True:
        time.sleep(60)


main()
