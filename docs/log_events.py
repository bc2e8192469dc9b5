"""What the programs log, found in the source: names, levels and fields; and what each line means.

``docs/reference/logs.md`` is made of it. A line that has no meaning here, and a meaning without a
line, fail ``tests/unit/test_docs.py``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
PROGRAMS: Final[Mapping[str, tuple[str, ...]]] = {
    "gateway": ("gateway",),
    "worker": ("agents_sdk",),
    "both": ("broker",),
}
"""Program → the packages whose lines only it writes."""

_SAME: Final = {"exception": "error"}
_HANDED_ON: Final = re.compile(r'self\._tell\("(\w+)"\)')
_BESIDES: Final = frozenset({"exc_info"})


MEANINGS: Final[Mapping[str, str]] = {
    "agent_ignores_cancellation": "its run has ended without it; it still takes a place",
    "agent_left_behind": "the worker has ended while this agent was still at work",
    "agent_not_served_here": "a request for another worker's agent; the sweeper decides",
    "agent_raised": "the run has failed; the text of the error is in its `agent_completed`",
    "agents_not_announced": "gateways do not learn of this worker's agents until it succeeds",
    "attempt_not_noted": "a further attempt will not be linked to this one's span",
    "audit_log_cut_off": "Redis has lost operators' orders; revocations are read anew",
    "certificate_loaded": "the listener's certificate",
    "certificate_not_renewed": "its files have changed and cannot be used; the old ones are",
    "certificate_renewed": "the files of the listener's certificate have changed",
    "cluster_node_does_not_tell": "another node of the Cluster is asked for its layout",
    "command_failed": "a defect: a frame was answered with `internal`",
    "connection_refused": "somebody without a valid token; `reason` says what is wrong with it",
    "draining": "clients are sent away, for a signal or, with `by`, on an operator's order",
    "end_not_confirmed": "the end of a run is not confirmed by a replica; it is tried again",
    "end_of_run_refused": "its worker or another gateway was faster",
    "events_given_up": "the process has ended while Redis was away; the sweeper ends the run",
    "exit_refused": "a task that an agent began would end the process; the worker goes on",
    "feeding_failed": "a defect: a client was closed, and comes back with its cursor",
    "figures_unreadable": "a key of the figures is of another type",
    "gateway_failed": "one of several processes cannot start; `reason` says what to do",
    "handshake_failed": "a defect: a client was not let in",
    "isolation_violation": "an event that is not its channel's owner's was withheld",
    "key_ignored": "a key of the key set is not used",
    "key_set_changed": "other keys than before are accepted",
    "key_set_failed": "a defect: the key set is as before",
    "key_set_not_fetched": "the key set is as before, until `RUNCAST_JWT_JWKS_STALE_SECONDS`",
    "leases_not_renewed": "runs of this worker will be lost if it goes on",
    "left_at_once": "threads or agents were still at work when the worker had drained",
    "log_rolled_back": "a failover took confirmed events back; they were sent again",
    "malformed_event": "somebody publishes what is no event",
    "malformed_message": "somebody publishes what is no message of Runcast's",
    "order_given": "an operator's order; it is in the audit log too",
    "order_unreadable": "an entry of the audit log is not Runcast's",
    "orders_unread": "Redis is away; orders are read when it is back",
    "origin_refused": "a page of an origin that is not in `RUNCAST_ALLOWED_ORIGINS`",
    "partition_unreadable": "the sweeper leaves this partition out: its leases are of another type",
    "post_refused": "what the agent posted cannot be sent; `why` says so",
    "process_silent": "a process behind the same port does not tell its figures",
    "publish_failed": "Redis refuses what the run says, so the run is lost",
    "question_left_open": "it stays open until its time is over",
    "redis_connection_lost": "it is opened again; what was under way is repeated",
    "redis_killed": "the embedded Redis did not stop in time",
    "redis_moved": "Sentinel or the Cluster names another server",
    "redis_unreachable": "tried again with growing pauses",
    "refresh_refused": "a connection's new token is not valid; the old one still counts",
    "relay_task_failed": "a defect: what it repaired or fed is repaired by the next check",
    "report_refused": "this gateway is missing in the fleet's figures: look at its rights in Redis",
    "request_failed": "a defect: a request was answered with 500",
    "request_left_in_queue": "harmless: who takes it finds the run claimed",
    "request_refused": "as `connection_refused`, of a request",
    "requests_not_taken": "Redis refuses to give this worker requests",
    "requests_unreadable": "somebody has queued what is no request; it was removed",
    "response_refused": "the run has failed: its response is no JSON, or too large",
    "run_ended_by_sweeper": "nobody else has ended the run in time; `status` says how it ended",
    "run_incomplete": "it never sent these of the five events",
    "run_lost": "it is somebody else's now, or has ended; its agent is cancelled",
    "run_not_carried": "a defect: the run is left to the sweeper",
    "run_unreadable": "its record is not Runcast's, so nobody can carry or end it",
    "run_waits_for_redis": "its last events are not confirmed; they are sent until they are",
    "seats_refused": "Redis refuses to count connections: look at this gateway's rights",
    "signal_received": "the worker drains; a second signal ends it",
    "subscriber_connection_lost": "all is subscribed again, and every log checked",
    "subscriber_deaf": "its own probes do not come back, so it subscribes anew",
    "subscriber_refused": "Redis refuses a subscription: look at this user's rights",
    "subscription_out_of_order": "not what was subscribed: the connection is opened again",
    "sweep_failed": "no run is ended until it succeeds",
    "sweep_of_revocations_failed": "revocations are looked up at the next turn",
    "sweep_refused": "as `end_of_run_refused`",
    "tail_check_failed": "whether the last event was missed is asked again",
    "text_refused": "streamed text is over the limit; the response has all of it",
    "token_not_given": "a client program's own function for a token has raised",
    "token_revoked": "a connection or a request was refused for it",
    "tool_result_refused": "the call has failed: its result is no JSON, or too large",
    "unreadable_in_redis": "a key is not Runcast's; the client was told `internal`",
    "webhook_events_dropped": "an outbox is full: the receiver is away for too long",
    "webhook_not_taken": "posted again later",
    "webhook_put_aside": "it will not be posted again; it is kept in Redis for a week",
    "webhook_waits": "Redis is away in the midst of a post, which is repeated",
    "webhooks_wait": "Redis is away, or refuses",
    "worker_draining": "it takes no further requests",
    "worker_started": "it takes requests",
    "worker_stopped": "it has left nothing behind",
}
"""Name of a line → what it means."""


@dataclass(slots=True)
class Line:
    """One kind of line: its levels, and the fields that any of its places gives."""

    program: str
    levels: set[str] = field(default_factory=set)
    fields: dict[str, None] = field(default_factory=dict)


def found() -> dict[str, Line]:
    """Name → line, of every call ``log.LEVEL("name", …)`` in the three packages."""
    lines: dict[str, Line] = {}
    for program, packages in PROGRAMS.items():
        for package in packages:
            for path in sorted((ROOT / package).rglob("*.py")):
                for name, level, fields in _calls(path.read_text("utf-8")):
                    line = lines.setdefault(name, Line(program))
                    if line.program != program:
                        line.program = "both"
                    line.levels.add(level)
                    line.fields |= dict.fromkeys(fields)
    return lines


def _calls(source: str) -> Iterator[tuple[str, str, list[str]]]:
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "log"
            and node.args
        ):
            level = _SAME.get(node.func.attr, node.func.attr)
            fields = [each.arg for each in node.keywords if each.arg not in {None, *_BESIDES}]
            if any(ast.unparse(each.value) == "feed.whose" for each in node.keywords):
                fields += ["user", "scope"]
            if level != node.func.attr or any(each.arg == "exc_info" for each in node.keywords):
                fields.append("exception")
            for name in _names(node.args[0], source):
                yield name, level, [each for each in fields if each is not None]


def _names(argument: ast.expr, source: str) -> list[str]:
    """The name that is written there; where it is handed on, those that a method is called with."""
    if isinstance(argument, ast.Constant):
        return [str(argument.value)]
    return _HANDED_ON.findall(source)
