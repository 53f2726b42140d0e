"""The tasks of the namespace ``build``: what the checkout itself is made with."""

from invoke.collection import Collection
from invoke.context import Context

from uplab.cli.common import command

ns = Collection("build")


@command(
    ns,
    name="lock",
    flags={"upgrade": "take the newest versions that the ranges in requirements/*.in allow"},
)
def remake_lock_files(c: Context, upgrade: bool = False) -> None:
    """Remake requirements/*.lock, with hashes, from *.in there."""
    from tools import lock

    for line in lock.remake(upgrade=upgrade):
        print(line, flush=True)
