"""Before a run: does the second machine reach the ports that the servers will listen on?"""

from __future__ import annotations

import socket
from typing import Any

from uplab.hostside import procfs
from uplab.hostside.far import Far, Lost, Way
from uplab.hostside.loop import Loop


def reach(request: dict[str, Any]) -> dict[str, Any]:
    """Listen on each port for a moment, and have the agent of the second machine connect to it.

    Args:
        request: ``name``, ``address``, ``port``, ``token`` of the agent; ``server_address`` and
            ``server_ports`` of this host.

    Returns:
        ``problem``: the first thing that does not work, None where all does.
    """
    name, server_address = str(request["name"]), str(request["server_address"])
    token = bytes.fromhex(request["token"])
    way = Way(name, str(request["address"]), int(request["port"]), token)
    with Loop() as loop:
        far = Far(way, loop, "")
        try:
            far.connect()
        except Lost as error:
            return {"problem": f"this host does not reach it: {error}"}
        for port in request["server_ports"]:
            problem = _try_port(far, server_address, int(port))
            if problem is not None:
                far.leave()
                return {"problem": problem}
        far.leave()
    return {"problem": None}


def _try_port(far: Far, address: str, port: int) -> str | None:
    """Why a port cannot be reached from there; None where it can."""
    try:
        with socket.create_server((address, port)):
            took_us, reason = far.reach(port)
    except OSError as error:
        owners = ", ".join(procfs.listeners(port))
        if owners:
            return f"port {port} is in use by {owners}"
        return (
            f"{address} is no address of this host that can be listened on ({error.strerror}). Put "
            "the one that the load's host reaches it by into the inventory: uplab_address"
        )
    except Lost as error:
        return str(error)
    if took_us is None:
        return f"it does not reach {address} port {port}: {reason}. Is there a firewall between?"
    return None
