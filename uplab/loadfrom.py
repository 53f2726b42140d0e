"""A second machine that drives the load: what of it is needed before, during and after a run.

To a campaign, host and load host together look like one host: what is asked of the host is
answered with what the second machine has in it, and a run is launched there with an agent on the
second machine that waits for it. The token that the two of them share travels over SSH to either,
and is in no argv, plan or run directory.
"""

from __future__ import annotations

import shlex
import socket
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uplab import inventory, provision
from uplab.adapters import Registry
from uplab.errors import HostError, UplabError, UsageError
from uplab.hostside.doctor import AVAILABLE, NOT_AVAILABLE
from uplab.hostside.spec import LoadFrom
from uplab.hostside.templates import placeholders
from uplab.remote import Facts, Host, Query, Take

#: The variables of the inventory that say where a host is in the network that load goes through.
ADDRESS = "uplab_address"
PORT = "uplab_load_port"


def address(name: str, variables: dict[str, Any]) -> str:
    """The IPv4 address at which the other of the two hosts reaches a host.

    Args:
        name: of the host.
        variables: its own; ``uplab_address``, or else the address that Ansible goes to.

    Raises:
        UsageError: it has none.
    """
    given = variables.get(ADDRESS)
    if given is None and not inventory.is_local(variables):
        given = variables.get("ansible_host", name)
    if given is not None:
        with suppress(OSError, UnicodeError):
            found = socket.getaddrinfo(str(given), None, socket.AF_INET, socket.SOCK_STREAM)
            return str(found[0][4][0])
    said = "it has none in the inventory" if given is None else f"{given!r} is none"
    raise UsageError(
        f"host {name}: a load on a second machine takes an IPv4 address of it that the other one "
        f"reaches, and {said}. Put it into the inventory: {ADDRESS}: 192.0.2.7"
    )


def with_load_from(
    project: Path, host: Host, load_host: str, registry: Registry, chosen: Path | None = None
) -> PairedHost:
    """A host together with the second machine that loads it.

    Args:
        project: the checkout.
        host: that is measured.
        load_host: the second machine's name in the inventory.
        registry: the adapters whose files travel along.
        chosen: an inventory of somebody's own instead of uplab's.

    Raises:
        UsageError: it is the same, or not in the inventory, or one has no address.
        HostError: this machine's root cannot be had.
    """
    if load_host == host.name:
        raise UsageError(
            f"--load-from {load_host}: that is the measured host itself. Leave --load-from out for "
            "a load on the same machine"
        )
    there = inventory.host(project, load_host, chosen)
    far = provision.connect(project, load_host, registry, chosen)
    return PairedHost(
        host,
        far,
        server_address=address(host.name, inventory.host(project, host.name, chosen)),
        address=address(load_host, there),
        port=int(there.get(PORT, 0)),
    )


@dataclass
class PairedHost:
    """A host, and the second machine that loads it, as one host.

    Args:
        near: the host that is measured.
        far: the one that loads it.
        server_address: where servers on the first listen.
        address: where the agent on the second listens.
        port: of the agent; 0 for any.
    """

    near: Host
    far: Host
    server_address: str
    address: str
    port: int = 0

    @property
    def name(self) -> str:
        """Of the measured host."""
        return self.near.name

    @property
    def python(self) -> str:
        """Of the measured host."""
        return self.near.python

    @property
    def chosen(self) -> Path | None:
        """Of the measured host."""
        return self.near.chosen

    def facts(self) -> Facts:
        """Of the measured host."""
        return self.near.facts()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, both connections are kept."""
        near: AbstractContextManager[None] = self.near.held()
        with near, self.far.held():
            yield

    # ---- before a run --------------------------------------------------------------------

    def inspect(self, request: dict[str, Any]) -> dict[str, Any]:
        """What can run on the two of them.

        The load's programs are looked for on the second machine alone.

        Raises:
            UsageError: a server cannot listen on the host's address.
            HostError: one of them cannot be reached; or the second does not reach the servers.
        """
        adapters = request.get("adapters")
        if not adapters:
            return self.near.inspect(request)
        _require_addresses(adapters["servers"])
        bare = {name: {**load, "programs": {}} for name, load in adapters["loads"].items()}
        answer = self.near.inspect({**request, "adapters": {**adapters, "loads": bare}})
        looked = self._ask_far("load-look", {"loads": adapters["loads"]})
        _judge_again(answer, request["cells"], looked["missing"], self.far.name)
        found = dict(looked["artifacts"])
        answer["load_from"] = LoadFrom(self.far.name, self.address, self.server_address, found)
        available = [c for c in request["cells"] if answer["cells"][c["id"]][0] == AVAILABLE]
        if available and request.get("start_tracers", True):
            self._require_reach(adapters["loads"], found, _ports(available))
        return answer

    def _require_reach(
        self, loads: Mapping[str, Any], artifacts: Mapping[str, str], ports: list[int]
    ) -> None:
        """See that the second machine reaches the servers, by an agent that ends at once."""
        run_id = f"reach-{self.name}"
        task = self._task(run_id, loads, artifacts)
        try:
            agent = self._ask_far("load-start", task)
            asked = {"name": self.far.name, "address": self.address, "port": agent["port"]}
            asked |= {"token": agent["token"], "server_address": self.server_address}
            answer = self.near.ask("load-reach", {**asked, "server_ports": ports})
        finally:
            self._end(run_id)
        problem = answer.get("problem")
        if problem is not None:
            raise HostError(
                f"load host {self.far.name}, for host {self.name}: {problem}. "
                f"Run: invoke lab.check --host {shlex.quote(self.far.name)}"
            )

    def _task(
        self, run_id: str, loads: Mapping[str, Any], artifacts: Mapping[str, str]
    ) -> dict[str, Any]:
        return {
            "run_id": run_id,
            "address": self.address,
            "port": self.port,
            "server_address": self.server_address,
            "loads": dict(loads),
            "artifacts": dict(artifacts),
        }

    def _ask_far(self, command: str, request: dict[str, Any]) -> dict[str, Any]:
        """Ask the second machine; what it says is said of it as the one that loads."""
        try:
            return self.far.ask(command, request)
        except HostError as error:
            raise HostError(f"load {error.message}") from error
        except UplabError as error:
            raise UplabError(f"load {error.message}", exit_code=error.exit_code) from error

    # ---- a run ---------------------------------------------------------------------------

    def ask(self, command: str, request: Query, *, become: bool = True) -> dict[str, Any]:
        """Ask the host; a run is launched there with its agent on the second machine."""
        if command == "forget-run":
            # It is here: nothing of it is left anywhere else.
            self._end(str(request.get("run_id")))
        if command != "launch":
            return self.near.ask(command, request, become=become)
        plan = request["plan"]
        run_id = plan["run_id"]
        artifacts = plan["load_from"]["artifacts"]
        task = self._task(run_id, plan["adapters"]["loads"], artifacts)
        agent = self._ask_far("load-start", task)
        secret = {"port": agent["port"], "token": agent["token"]}
        try:
            return self.near.ask(command, {**request, "load_agent": secret}, become=become)
        except HostError:
            # The answer was lost, perhaps; asked again, both are found as they are.
            raise
        except BaseException:
            self._end(run_id)
            raise

    def receive(
        self, command: str, request: Query, take: Take, *, silence_s: float | None = None
    ) -> None:
        """Of the measured host, which has all of the run."""
        self.near.receive(command, request, take, silence_s=silence_s)

    def _end(self, run_id: str) -> None:
        """End an agent, which ends by itself where it cannot be reached."""
        with suppress(UplabError):
            self.far.ask("load-stop", {"run_id": run_id})


def _require_addresses(servers: Mapping[str, Any]) -> None:
    """Raise UsageError for a server that can be reached on its own machine alone."""
    for name, server in servers.items():
        if "address" not in placeholders(server["url"]):
            raise UsageError(
                f"--load-from: server {name} cannot be told where to listen: its adapter.yml has "
                "no {address} in url and argv. Measure others alone: --only server=NAME"
            )


def _judge_again(
    answer: dict[str, Any], cells: list[dict[str, Any]], missing: Mapping[str, str], name: str
) -> None:
    """Cells whose load is not on the second machine cannot run."""
    for cell in cells:
        reason = missing.get(cell["load"])
        if reason is not None and answer["cells"][cell["id"]][0] == AVAILABLE:
            answer["cells"][cell["id"]] = [NOT_AVAILABLE, f"load host {name}: {reason}"]


def _ports(cells: list[dict[str, Any]]) -> list[int]:
    """The ports of the servers that will run."""
    found = {cell["server_parameters"].get("port") for cell in cells}
    return sorted(port for port in found if port is not None)
