"""How many texts of wrk are parsed per second on one core: one JSON line on stdout.

The texts are the captured ones of tests/data/wrk that hold reports, each parsed as a whole and
strictly, as report.parse does. A second is one of CPU time, so that other work on the machine does
not count, and the best of several rounds is taken: what still disturbs a round only ever makes it
slower. The median, and the rate by the clock on the wall, are shown beside it.
"""

import importlib.util
import json
import statistics
import sys
import time
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
LIMIT_TEXTS_PER_S = 5_000
ROUND_S = 0.5
ROUNDS = 7


def load_adapter() -> ModuleType:
    path = ROOT / "loads/wrk/adapter.py"
    spec = importlib.util.spec_from_file_location("wrk_adapter", path)
    if not spec or not spec.loader:
        raise ImportError(f"{path} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def corpus(wrk: ModuleType) -> list[tuple[str, str]]:
    """Return the captured texts that hold a report, with their names."""
    texts = []
    for path in sorted((ROOT / "tests/data/wrk").glob("*.txt")):
        text = path.read_text()
        try:
            wrk.parse(text, path.name)
        except wrk.ParseError:
            continue
        texts.append((text, path.name))
    return texts


def parse_for_a_round(wrk: ModuleType, texts: list[tuple[str, str]]) -> tuple[float, float]:
    """Return texts per second of CPU time and per second on the wall."""
    parse, parsed = wrk.parse, 0
    cpu_begin, begin = time.process_time(), time.perf_counter()
    while time.process_time() - cpu_begin < ROUND_S:
        for text, name in texts:
            parse(text, name)
        parsed += len(texts)
    return parsed / (time.process_time() - cpu_begin), parsed / (time.perf_counter() - begin)


def main() -> int:
    wrk = load_adapter()
    texts = corpus(wrk)
    rates, wall_rates = zip(*(parse_for_a_round(wrk, texts) for _ in range(ROUNDS)), strict=True)
    passed = max(rates) >= LIMIT_TEXTS_PER_S
    result = {
        "benchmark": "parse",
        "texts_per_s": round(max(rates)),
        "texts_per_s_median": round(statistics.median(rates)),
        "texts_per_s_wall": round(max(wall_rates)),
        "limit_texts_per_s": LIMIT_TEXTS_PER_S,
        "texts": len(texts),
        "bytes": sum(len(text.encode()) for text, _ in texts),
        "rounds": ROUNDS,
        "passed": passed,
    }
    print(json.dumps(result))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
