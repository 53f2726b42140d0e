"""uplab/hostside/order.py: the order of a block is random, fixed by the seed, and nobody's else."""

from collections import Counter
from random import Random

from hypothesis import assume, given
from hypothesis import strategies as st

from uplab.hostside.order import block_order

IDS = ["https-none-12B", "https-none-again-12B", "http-none-12B", "http-tracer-only-t-12B"]

ids = st.lists(st.text(min_size=1, max_size=6), unique=True, max_size=12)
seeds = st.integers(0, (1 << 63) - 1)
blocks = st.integers(1, 100_000)


@given(seeds, blocks, ids)
def test_it_is_a_permutation(seed: int, block: int, cells: list[str]) -> None:
    order = block_order(seed, block, cells)
    assert len(order) == len(cells)
    assert set(order) == set(cells)


@given(seeds, blocks, ids, st.randoms())
def test_the_order_of_the_file_does_not_matter(
    seed: int, block: int, cells: list[str], chance: Random
) -> None:
    shuffled = list(cells)
    chance.shuffle(shuffled)
    assert block_order(seed, block, shuffled) == block_order(seed, block, cells)


@given(seeds, blocks, ids, st.data())
def test_leaving_a_cell_out_keeps_the_order_of_the_others(
    seed: int, block: int, cells: list[str], data: st.DataObject
) -> None:
    assume(cells)
    gone = data.draw(st.sampled_from(cells))
    rest = [cell for cell in cells if cell != gone]
    assert block_order(seed, block, rest) == [
        cell for cell in block_order(seed, block, cells) if cell != gone
    ]


@given(seeds)
def test_it_depends_on_the_block(seed: int) -> None:
    # 4! orders: all 60 blocks alike has a chance of 24**-59.
    assert len({tuple(block_order(seed, block, IDS)) for block in range(1, 61)}) > 1


@given(blocks)
def test_it_depends_on_the_seed(block: int) -> None:
    assert len({tuple(block_order(seed, block, IDS)) for seed in range(60)}) > 1


def test_seed_and_block_are_kept_apart() -> None:
    many = [str(number) for number in range(20)]
    assert block_order(11, 1, many) != block_order(1, 11, many)
    assert block_order(1, 12, many) != block_order(11, 2, many)


def test_every_cell_comes_first_about_equally_often() -> None:
    first = Counter(block_order(7, block, IDS)[0] for block in range(1, 2001))
    # 500 each; six standard deviations of a fair shuffle are 116.
    assert all(abs(first[cell] - 500) < 116 for cell in IDS)


def test_the_order_of_a_published_seed_never_changes() -> None:
    assert block_order(20231104, 1, IDS) == [
        "http-tracer-only-t-12B",
        "http-none-12B",
        "https-none-again-12B",
        "https-none-12B",
    ]
