"""Rubbish in every key and channel of an installation, of the right type and of wrong ones."""

from dataclasses import dataclass
from typing import Final

from hypothesis import strategies as st

from broker.channels import Channel, Keys, Owner, Scope

Command = tuple[bytes | str | int, ...]

VICTIM: Final = Owner("", "victim")
AGENTS: Final = ("five", "lazy", "beats")
SPARE: Final = "spare"
"""An agent that no worker serves."""


@dataclass(frozen=True)
class Rubbish:
    """Commands that a careless or hostile neighbour in the same Redis runs."""

    what: str
    commands: tuple[Command, ...]
    undo: tuple[Command, ...] = ()


_byte = st.binary(max_size=30)
_text = st.text(st.characters(codec="utf-8"), max_size=20)
_word = st.sampled_from(
    [
        b"",
        b" ",
        b"-",
        b"0",
        b"0-0",
        b"1-1",
        b"99999999999999-0",
        b"18446744073709551616-0",
        b"x-y",
        b"-1-0",
        b"1_0-0",
        b":victim",
        b":somebody",
        b":",
        b"%zz",
        b"\xff\xfe",
        b"r1",
        b"agent_thinking",
        b"agent_delta",
        b"agent_completed",
        b"taken_over",
        b"user_message",
        b"1",
        b"-5",
        b"9" * 40,
        b"\x00",
    ]
)
_body = st.one_of(
    _byte,
    st.sampled_from(
        [
            b"",
            b"{}",
            b"[]",
            b"null",
            b"{",
            b'{"type":"agent_thinking"}',
            b'{"id":"1-1"}',
            b"\xff",
            b"x" * 300_000,
            b'{"type":"agent_delta","payload":{"offset":0,"next":1,"text":"x"}}',
        ]
    ),
)
_header = st.one_of(
    st.lists(_word, min_size=5, max_size=9).map(b" ".join),
    st.lists(_word, min_size=7, max_size=7).map(b" ".join),
    st.builds(  # right but for a word or two
        lambda prev, owner, run, seq, kind: b" ".join((prev, owner, b"t1", run, seq, kind)),
        _word,
        st.sampled_from([b":victim", b":somebody", b":"]),
        _word,
        _word,
        _word,
    ),
    _byte,
)
_stored = st.builds(
    lambda header, newline, body: header + newline + body,
    _header,
    st.sampled_from([b"\n", b"\n", b"\n", b"", b"\r\n"]),
    _body,
)
_value = st.one_of(
    _byte,
    _word,
    st.sampled_from(
        [
            b"null",
            b"[]",
            b"{}",
            b"1",
            b'"x"',
            b"{",
            b'{"name":1}',
            b'{"name":"x","unknown":1}',
            b'{"at":1}',
            b'{"at":99999999999}',
            b'{"at":99999999999,"by_mode":[],"events":1,"latency":"x","uptime_seconds":null}',
            b'{"at":99999999999,"by_mode":{"main":"x"},"events":{},"latency":{"x":1},"uptime_seconds":1}',
            b'{"at":"x"}',
            b"\xff",
            b"NaN",
            b"[" * 2000,
        ]
    ),
)
_run_field = st.sampled_from(
    [
        "owner",
        "scope",
        "name",
        "log",
        "live",
        "thread",
        "agent",
        "retries",
        "request",
        "state",
        "seq",
        "attempt",
        "fence",
        "head",
        "created",
        "worker",
        "stop",
        "sent",
        "call:x",
        "held",
        "status",
    ]
)


class Targets:
    """Strategies for one installation. ``nodes``: ids of the processes that listen on a channel."""

    def __init__(self, keys: Keys, watcher: Owner, nodes: list[str]) -> None:
        self.keys = keys
        self.partition = keys.partition(VICTIM)
        self.victim = keys.channel(VICTIM, Scope.USER)
        self.watcher = keys.channel(watcher, Scope.USER)
        self._nodes = nodes

    def all(self) -> st.SearchStrategy[Rubbish]:
        return st.one_of(
            self._messages(self.watcher),
            self._messages(self.victim),
            self._deltas(),
            self._control(),
            self._entries(),
            self._entries(),
            self._runs(),
            self._runs(),
            self._queues(),
            self._registry(),
            self._reports(),
            self._sets(),
            self._strings(),
            self._wrong_types(),
            self._wrong_types(),
        )

    def _messages(self, channel: Channel) -> st.SearchStrategy[Rubbish]:
        """Not of the form that could continue the log: forging that takes more than rubbish."""
        return st.builds(
            lambda message: Rubbish("message", (("PUBLISH", channel.live, message),)),
            st.builds(lambda head, rest: head + b" " + rest, _word, _stored),
        )

    def _deltas(self) -> st.SearchStrategy[Rubbish]:
        return st.builds(
            lambda following, owner, run, offset, body: Rubbish(
                "delta",
                (
                    (
                        "PUBLISH",
                        self.victim.live,
                        b" ".join((b"-", following, owner, b"t1", run, offset, b"agent_delta"))
                        + b"\n"
                        + body,
                    ),
                ),
            ),
            _word,
            st.sampled_from([b":victim", b":x"]),
            st.sampled_from([b"r1", b"", b"\xff", b"%zz"]),
            _word,
            _body,
        )

    def _control(self) -> st.SearchStrategy[Rubbish]:
        return st.builds(
            lambda node, message: Rubbish(
                "control", (("PUBLISH", self.keys.control(node), message),)
            ),
            st.sampled_from(self._nodes),
            st.one_of(
                st.binary(max_size=40),
                _text.map(str.encode),
                st.sampled_from(
                    [
                        b"stop",
                        b"stop \xdc \xff",
                        b"stop ",
                        b"stop x y",
                        b"stop 1 r1",
                        b"stop  ",
                        b"probe",
                        b"stop 1",
                    ]
                ),
            ),
        )

    def _entries(self) -> st.SearchStrategy[Rubbish]:
        return st.builds(
            lambda field, value, more: Rubbish(
                "log entry", (("XADD", self.victim.log, "*", field, value, *more),)
            ),
            st.sampled_from(["e", "e", "e", "x", ""]),
            _stored,
            st.sampled_from([(), ("e", "x"), ("y", "")]),
        )

    def _runs(self) -> st.SearchStrategy[Rubbish]:
        return st.builds(
            self._run,
            st.sampled_from(["r1", "r2", "r3"]),
            st.dictionaries(
                _run_field,
                st.one_of(
                    _value,
                    st.sampled_from(
                        [
                            b":victim",
                            b"user",
                            b"thread",
                            b"run",
                            b"queued",
                            b"running",
                            b"completed",
                            b'{"run_id":"r1","content":1,"metadata":{},"parent_run_id":null}',
                        ]
                    ),
                ),
                max_size=8,
            ),
            st.booleans(),
            st.booleans(),
        )

    def _run(
        self,
        run_id: str,
        fields: dict[str, bytes],
        mostly_right: bool,  # noqa: FBT001 - drawn
        due: bool,  # noqa: FBT001 - drawn
    ) -> Rubbish:
        right: dict[str, bytes] = {}
        if mostly_right:
            right = {
                "owner": b":victim",
                "scope": b"user",
                "name": b"",
                "log": self.victim.log,
                "live": self.victim.live,
                "thread": b"t1",
                "agent": b"five",
                "retries": b"0",
                "request": b'{"run_id":"%s","content":"x","metadata":{},"parent_run_id":null}'
                % run_id.encode(),
                "state": b"queued",
                "seq": b"0",
                "attempt": b"0",
                "fence": b"0",
                "created": b"1",
                "head": f":victim t1 {run_id}".encode(),
            }
        stored = {**right, **dict(list(fields.items())[: 2 if mostly_right else 8])} or {"x": b"y"}
        key = self.keys.run(self.partition, run_id)
        flat = [part for pair in stored.items() for part in pair]
        commands: list[Command] = [
            ("DEL", key),
            ("HSET", key, *flat),
            ("EXPIRE", key, 60),
            ("SADD", self.victim.open, run_id),
        ]
        if due:
            commands.append(("ZADD", self.keys.leases(self.partition), 1, run_id))
        commands.append(
            ("XADD", self.keys.requests("five"), "*", "run", f"{self.partition} {run_id}")
        )
        return Rubbish("run", tuple(commands))

    def _queues(self) -> st.SearchStrategy[Rubbish]:
        return st.builds(
            lambda agent, field, value: Rubbish(
                "queue entry", (("XADD", self.keys.requests(agent), "*", field, value),)
            ),
            st.sampled_from(AGENTS),
            st.sampled_from(["run", "run", "x", ""]),
            st.one_of(
                _value,
                st.sampled_from(
                    [b"1 r1", b"x r1", b"-1 r1", b"999999 r1", b"1", b"1 ", b"1  r1 x", b"0 \xff"]
                ),
            ),
        )

    def _registry(self) -> st.SearchStrategy[Rubbish]:
        return st.builds(
            lambda name, value: Rubbish(
                "agent",
                (("HSET", self.keys.agents, name, value),),
                (("HDEL", self.keys.agents, name),),
            ),
            st.sampled_from(["spare", "other", b"\xff", b""]),
            _value,
        )

    def _reports(self) -> st.SearchStrategy[Rubbish]:
        return st.builds(
            lambda key, name, value: Rubbish(
                "report", (("HSET", key, name, value),), (("HDEL", key, name),)
            ),
            st.sampled_from([self.keys.nodes, self.keys.run_counts]),
            st.sampled_from([b"x", b"\xff", b"", b"five\ntotal", b"a\nb\nc", b"zz\npublished"]),
            _value,
        )

    def _sets(self) -> st.SearchStrategy[Rubbish]:
        leases, members = self.keys.leases(self.partition), st.one_of(_byte, _word)
        return st.one_of(
            st.builds(lambda member: Rubbish("lease", (("ZADD", leases, 1, member),)), members),
            st.builds(
                lambda member: Rubbish("open run", (("SADD", self.victim.open, member),)), members
            ),
            st.builds(
                lambda member: Rubbish(
                    "thread", (("RPUSH", self.keys.thread(VICTIM, "t1"), member),)
                ),
                members,
            ),
        )

    def _strings(self) -> st.SearchStrategy[Rubbish]:
        names = [
            *(self.keys.text(self.partition, run_id) for run_id in ("r1", "r2")),
            self.keys.message(VICTIM, "m1"),
            self.keys.turns(VICTIM, "c1"),
            self.keys.connection(VICTIM, "c1"),
        ]
        return st.builds(
            lambda key, value: Rubbish("string", (("SET", key, value, "EX", 60),)),
            st.sampled_from(names),
            st.one_of(_value, st.just("é".encode() * 1000 + b"\xc3")),
        )

    def _wrong_types(self) -> st.SearchStrategy[Rubbish]:
        """Keys of the victim, and of everybody."""
        keys = [
            self.victim.log,
            self.victim.open,
            self.keys.leases(self.partition),
            self.keys.agents,
            self.keys.nodes,
            self.keys.run_counts,
            self.keys.sweeper,
            self.keys.requests(SPARE),
            self.keys.requests("lazy"),
            self.keys.run(self.partition, "r1"),
            self.keys.text(self.partition, "r1"),
            self.keys.message(VICTIM, "m1"),
            self.keys.thread(VICTIM, "t1"),
            self.keys.turns(VICTIM, "c1"),
            self.keys.connection(VICTIM, "c1"),
        ]
        fills = st.sampled_from(
            [("SET", "x"), ("SADD", "x"), ("RPUSH", "x"), ("HSET", "x", "y"), ("ZADD", 1, "x")]
        )
        return st.builds(
            lambda key, fill: Rubbish(
                "wrong type",
                (("DEL", key), (fill[0], key, *fill[1:]), ("EXPIRE", key, 60)),
                (("DEL", key),),
            ),
            st.sampled_from(keys),
            fills,
        )
