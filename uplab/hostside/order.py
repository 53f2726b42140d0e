"""The order of the cells in a block: random, and the same for everybody who has the seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def block_order(seed: int, block: int, cell_ids: Iterable[str]) -> list[str]:
    """Shuffle cells for one block.

    Sorting by the SHA-256 of seed, block and cell is a uniform shuffle that depends on no
    library's generator, so it is the same in ten years; each block is independent of how many
    there are.

    Args:
        seed: of the run.
        block: from 1.
        cell_ids: distinct.

    Returns:
        the ids in the order in which they are measured.
    """

    def key(cell_id: str) -> bytes:
        return hashlib.sha256(f"{seed}:{block}:{cell_id}".encode()).digest()

    return sorted(cell_ids, key=key)
