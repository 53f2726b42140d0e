"""The task ``test``: every check and every test, as CI runs them."""

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit

from uplab.cli.common import PROJECT_ROOT, command
from uplab.errors import EXIT_GATE, GateError, UplabError

ns = Collection()


@command(
    ns,
    name="test",
    flags={
        "only": "which parts to run, by comma: lint, unit, roles, system",
        "keyword": "run only the tests whose names match this pytest -k expression; "
        "by default all of them",
    },
)
def run_everything(
    c: Context, only: str = "lint,unit,roles,system", keyword: str | None = None
) -> None:
    """Run all checks and tests: ruff, mypy, the linters, pytest.

    All of them run, also after one has failed. Needs the packages of requirements/dev.lock, which
    it installs, and for the parts roles and system what lab.setup puts on this machine. The tests
    of what speaks SSH start an sshd of their own: where the program is missing, apt installs it.
    """
    from tools import checks

    groups = checks.parse_groups(only)
    checks.require_dev_packages()
    steps = checks.lint_steps() if "lint" in groups else []
    failed = checks.run_all(steps)
    if groups != ("lint",):
        failed += programs_for_tests()
    if checks.NEEDS_PROVISIONING.intersection(groups):
        failed += provision_for_tests()
    tests = checks.pytest_step(groups, keyword)
    if tests is None:
        if failed:
            raise GateError(f"failed: {', '.join(failed)}")
        return
    # pytest comes last: its closing line is the last thing said, and repeats what failed before.
    good = checks.run_step(tests, failed)
    if failed or not good:
        raise Exit(code=EXIT_GATE)


def programs_for_tests() -> list[str]:
    """Let this machine have the programs that only the tests start, from Debian packages.

    Out: the name of the step if it failed.
    """
    from tools import checks
    from uplab.box import needs
    from uplab.box.steps import Printed

    with checks.timed("programs of the tests") as outcome, Printed() as steps:
        try:
            needs.require_programs(steps, checks.PROGRAMS, "a test")
        except UplabError as error:
            outcome.fail(error.message)
    return [] if outcome.good else ["programs of the tests"]


def provision_for_tests() -> list[str]:
    """Let this machine have what the system tests need (servers, tracer, load): lab.setup on local.

    Out: the name of the step if it failed.
    """
    from tools import checks
    from uplab import provision

    with checks.timed("provision local") as outcome:
        try:
            if not provision.is_current(PROJECT_ROOT, "local"):
                # The headers of the C library come with its newest version.
                extra = {"uplab_allow_upgrade": True}
                provision.converge(PROJECT_ROOT, ["local"], extra=extra)
        except UplabError as error:
            outcome.fail(error.message)
    return [] if outcome.good else ["provision local"]
