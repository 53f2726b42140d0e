# SPDX-License-Identifier: Apache-2.0
"""Ansible callback plugin: every task's result as a line of JSON, for the program that asked."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
---
name: uplab_results
type: notification
short_description: Results of tasks as lines of JSON
version_added: "0.1.0"
description:
  - Writes one line of JSON for the result of each task on each host into the file descriptor that
    the environment variable C(UPLAB_RESULTS_FD) names; without it the plugin does nothing.
requirements:
  - Switched on by C(ANSIBLE_CALLBACKS_ENABLED).
author:
  - The uplab authors
"""


class CallbackModule(CallbackBase):
    """Reports results to whoever holds the other end of the descriptor."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "uplab_results"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        named = os.environ.get("UPLAB_RESULTS_FD", "")
        self.descriptor = int(named) if named.isdigit() else None
        if self.descriptor is None:
            self.disabled = True
        else:
            # Connections that outlive the play must not hold the descriptor open.
            os.set_inheritable(self.descriptor, False)
        self.started_s: dict[str, float] = {}

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        """Remember when a task began on a host."""
        self.started_s[f"{host.get_name()} {task._uuid}"] = time.monotonic()

    def v2_runner_on_ok(self, result: Any) -> None:
        """A task that succeeded."""
        self.report(result, "changed" if result.result.get("changed") else "ok")

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """A task that failed, whether or not the play goes on."""
        self.report(result, "ignored" if ignore_errors else "failed")

    def v2_runner_on_skipped(self, result: Any) -> None:
        """A task whose condition did not hold."""
        self.report(result, "skipped")

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """A host that could not be reached."""
        self.report(result, "unreachable")

    def report(self, result: Any, state: str) -> None:
        """Write one line; an end that is gone stops the reports, never the play."""
        if self.descriptor is None:
            return
        host, task = result.host.get_name(), result.task
        began_s = self.started_s.pop(f"{host} {task._uuid}", time.monotonic())
        role = task._role.get_name() if task._role else ""
        line = {
            "host": host,
            "role": role,
            "task": task.get_name().removeprefix(f"{role} : "),
            "action": task.action,
            "state": state,
            # The arguments would double it, and hold whole archives.
            "result": {key: value for key, value in result.result.items() if key != "invocation"},
            "duration_s": round(time.monotonic() - began_s, 3),
        }
        data = f"{json.dumps(line, default=str)}\n".encode()
        try:
            while data:
                data = data[os.write(self.descriptor, data) :]
        except OSError:
            self.descriptor = None
