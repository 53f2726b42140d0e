"""Every reason for which a trial is invalid; the reference is made from this table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Explanation:
    """What a reason means, and what in an adapter.yml (or on the host) decides about it."""

    means: str
    look_at: str


REASONS: dict[str, Explanation] = {
    "port-in-use": Explanation(
        "somebody listens where the server should", "the port: end its owner or set another one"
    ),
    "not-started": Explanation(
        "a program could not be started", "argv and programs: the file and its permissions"
    ),
    "server-died": Explanation(
        "the server ended by itself", "argv and env of the server, and its last line"
    ),
    "server-not-ready": Explanation(
        "the server did not say in time that it is ready",
        "ready_line: no line of its output matched; ready_timeout_s",
    ),
    "no-answer": Explanation("nothing answered a request", "url of the server"),
    "wrong-answer": Explanation(
        "status, protocol or body length are not the cell's", "answer, and {body_bytes} in argv"
    ),
    "tracer-died": Explanation(
        "the tracer ended by itself", "argv and needs of the tracer, and its last line"
    ),
    "tracer-not-ready": Explanation(
        "the tracer did not say in time that it is attached",
        'attached_timeout_s: no JSON line {"event": "attached", ...} came',
    ),
    "daemon-died": Explanation(
        "bpftime's daemon ended by itself", "daemon.log of the trial; lab.check says what it needs"
    ),
    "daemon-not-ready": Explanation(
        "bpftime's daemon did not watch system calls in time", "attached_timeout_s; daemon.log"
    ),
    "no-shared-memory": Explanation(
        "the tracer is attached, but bpftime's shared memory is not there",
        "preload of the mode: was bpftime's library before the tracer's userspace part?",
    ),
    "attach-failed": Explanation(
        "bpftime could not bring its agent into the server", "bpftime.log and server.log"
    ),
    "no-counters": Explanation(
        "the tracer did not give its counters",
        'counters_signal: no JSON line {"event": "counters", ...} came after it',
    ),
    "sites-disagree": Explanation(
        "the probe sites are not where the adapter and the symbol table say",
        "sites: name, symbol and at, against what the tracer reports",
    ),
    "site-unchanged": Explanation(
        "a probe site should be probed, but the process's bytes there are the file's",
        "placement of the mode: the tracer said attached, and nothing was",
    ),
    "bytes": Explanation(
        "the process's code differs from its file in another way than declared",
        "sites and placement; another tracer may be on the server",
    ),
    "bystander": Explanation(
        "bpftime is in another process than the server, too",
        "daemon.log: the daemon was told the tracer's PID; the runtime's folder",
    ),
    "hits": Explanation(
        "hits per request are outside the declared range", "hits of the sites: minimum, maximum"
    ),
    "events": Explanation(
        "events per request are outside the declared range",
        "events of the mode: minimum, maximum; a tracer that drops events looks cheap",
    ),
    "events-lost": Explanation("the tracer lost events", "the tracer's buffers"),
    "load": Explanation(
        "the load's own report speaks against it (errors, no requests, contradictions)",
        "load.txt of the trial",
    ),
    "load-hung": Explanation(
        "the load did not end in time", "argv of the load: it must end after {duration_s}"
    ),
    "load-lost": Explanation(
        "the second machine that the load runs on was lost, or its agent was",
        "the network between the two hosts; the agent is ended when nothing is heard of the run",
    ),
    "load-unreachable": Explanation(
        "the second machine that the load runs on does not reach the server's port",
        "a firewall between the two, and {address} in argv and url of the server",
    ),
    "noise": Explanation(
        "the host was not quiet, and the matrix makes that invalid", "limits of the matrix"
    ),
    "clock": Explanation(
        "the host's clock was set during the trial, or the host slept; a load may go by it",
        "what sets the clock: `times.clock_jump_s` of the trial says by how much",
    ),
    "left-behind": Explanation(
        "after the server was stopped its port still answered, or processes of its user lived on "
        "(they are ended)",
        "stop_signal of the server; a server must stay in the session that it is started in",
    ),
    "no-user": Explanation(
        "no user was free that the server could run as",
        "who has the users from 60706 to 61183 on the host",
    ),
}
