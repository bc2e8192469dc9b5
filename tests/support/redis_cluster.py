"""A real Redis Cluster: three masters, three replicas, and what an operator does to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from redis.crc import key_slot
from redis.exceptions import RedisError, ResponseError

from tests.support.certificates import Encryption
from tests.support.redis_server import Server, redis_folder
from tests.support.servers import READY_SECONDS, server_program, wait_until

SLOTS = 16_384
NODE_TIMEOUT_MS = 1000
MASTERS = 3


@dataclass
class Cluster:
    """``nodes``: the masters as created, then one replica for each; roles change with failovers."""

    nodes: list[Server]
    tls: Encryption | None = None

    @property
    def url(self) -> str:
        return self.url_of()

    def url_of(self, credentials: str = "") -> str:
        """Some of the nodes, as an operator would list them; ``USER:PASSWORD@`` before them."""
        place = credentials + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:MASTERS])
        if self.tls is None:
            return f"redis+cluster://{place}"
        return f"rediss+cluster://{place}?{self.tls.query()}"

    @property
    def alive(self) -> list[Server]:
        return [node for node in self.nodes if node.answers()]

    def slot(self, tag: str) -> int:
        """Of all keys with this hash tag."""
        return int(key_slot(tag.encode()))

    def master_of(self, slot: int) -> Server:
        """The node that serves the slot now, by its own word."""
        return next(node for node in self.alive if slot in own_slots(node))

    def replica_of(self, master: Server) -> Server:
        """The node that replicates ``master`` now."""
        wanted = node_id(master)
        return next(node for node in self.alive if f"slave {wanted}" in _self_line(node))

    def masters(self) -> list[Server]:
        """Who serves slots now."""
        return [node for node in self.alive if own_slots(node)]

    def begin_migration(self, slot: int, to: Server) -> None:
        """The slot is opened on both sides; keys still have to move."""
        source = self.master_of(slot)
        to.command("CLUSTER", "SETSLOT", slot, "IMPORTING", node_id(source))
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", node_id(to))

    def move_keys(self, slot: int, source: Server, to: Server, *, batch: int = 10) -> int:
        """All keys of the open slot; how many they were. Those that come meanwhile too."""
        moved = 0
        while keys := source.command("CLUSTER", "GETKEYSINSLOT", slot, batch):
            words = ("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *keys)
            assert source.command(*words) in ("OK", "NOKEY", True), words
            moved += len(keys)
        return moved

    def finish_migration(self, slot: int, source: Server, to: Server) -> None:
        """Everyone is told who serves the slot, its new master first."""
        others = [node for node in self.masters() if node.port not in (source.port, to.port)]
        for node in (to, source, *others):
            node.command("CLUSTER", "SETSLOT", slot, "NODE", node_id(to))
        wait_until(
            lambda: all(_knows(node, slot, to) for node in self.alive),
            what=f"everyone knows where slot {slot} is",
        )

    def migrate_slot(self, slot: int, to: Server) -> int:
        """Move a slot as a rebalancing does; how many keys it had."""
        source = self.master_of(slot)
        self.begin_migration(slot, to)
        moved = self.move_keys(slot, source, to)
        self.finish_migration(slot, source, to)
        return moved

    def another_master(self, than: Server) -> Server:
        return next(node for node in self.masters() if node.port != than.port)

    def failover(self, slot: int, *, seconds: float = READY_SECONDS) -> Server:
        """``CLUSTER FAILOVER``, orderly: the slot's replica takes over; the new master."""
        old = self.master_of(slot)
        replica = self.replica_of(old)
        replica.command("CLUSTER", "FAILOVER")
        self.taken_over(slot, replica, seconds=seconds)
        return replica

    def pair_of(self, slot: int) -> tuple[Server, Server]:
        """The slot's master, and the replica that will take over."""
        master = self.master_of(slot)
        return master, self.replica_of(master)

    def taken_over(self, slot: int, replica: Server, *, seconds: float = READY_SECONDS) -> None:
        """Return when ``replica`` serves the slot and all that are alive know it."""
        wait_until(
            lambda: (
                slot in own_slots(replica)
                and all(_knows(node, slot, replica) and _is_ok(node) for node in self.alive)
            ),
            seconds=seconds,
            what=f"the replica takes slot {slot} over",
        )

    def cut_connections(self, node: Server, kind: str = "normal") -> int:
        """Cut every client's connection of a kind to one node; how many."""
        return int(node.command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"))

    def errors(self) -> dict[str, int]:
        """Error word → how often the nodes have answered so."""
        counted: dict[str, int] = {}
        for node in self.alive:
            for name, stat in node.info("errorstats").items():
                word = name.removeprefix("errorstat_")
                counted[word] = counted.get(word, 0) + int(stat["count"])
        return counted


@contextmanager
def cluster_redis(
    binary: Path | None = None, *arguments: str, tls: bool = False
) -> Iterator[Cluster]:
    """Three masters with a third of the slots each, and a replica for each of them."""
    with redis_folder() as folder:
        encryption = Encryption(folder) if tls else None
        nodes = [
            Server(folder / f"node-{number}", binary=binary or server_program())
            for number in range(2 * MASTERS)
        ]
        for node in nodes:
            node.arguments = (
                "--cluster-enabled", "yes",
                "--cluster-node-timeout", str(NODE_TIMEOUT_MS),
                "--cluster-replica-validity-factor", "0",
                *arguments,
            )  # fmt: skip
            if encryption is not None:
                node.arguments += encryption.arguments(node.port)
                node.access = encryption.access
        try:
            for node in nodes:
                node.start()
            _join(nodes)
            yield Cluster(nodes, encryption)
        finally:
            for node in nodes:
                node.end()


def _join(nodes: list[Server]) -> None:
    masters, replicas = nodes[:MASTERS], nodes[MASTERS:]
    for number, node in enumerate(nodes):
        node.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for other in nodes[:number]:
            node.command("CLUSTER", "MEET", "127.0.0.1", other.port)
    for number, master in enumerate(masters):
        share = range(number * SLOTS // MASTERS, (number + 1) * SLOTS // MASTERS)
        master.command("CLUSTER", "ADDSLOTS", *share)
    for master, replica in zip(masters, replicas, strict=True):
        wait_until(partial(_follow, replica, master), what="a replica knows its master")
    for node in nodes:
        wait_until(partial(_sees, node, nodes), what="the cluster is whole")


def _follow(replica: Server, master: Server) -> bool:
    try:
        replica.command("CLUSTER", "REPLICATE", node_id(master))
    except ResponseError:  # the two have not met yet
        return False
    return True


def node_id(node: Server) -> str:
    return str(node.command("CLUSTER", "MYID"))


def own_slots(node: Server) -> set[int]:
    """The slots that a node serves, by its own word; none of a node that is down or a replica."""
    try:
        words = _self_line(node).split()
    except RedisError:
        return set()
    found: set[int] = set()
    for word in words[8:]:
        if not word.startswith("["):
            first, _, last = word.partition("-")
            found |= set(range(int(first), int(last or first) + 1))
    return found


def _lines(node: Server) -> list[str]:
    """``CLUSTER NODES``, unparsed."""
    told: str = node.raw("CLUSTER", "NODES")
    return told.splitlines()


def _self_line(node: Server) -> str:
    return next(line for line in _lines(node) if "myself" in line)


def _knows(node: Server, slot: int, owner: Server) -> bool:
    """Whether ``node`` takes ``owner`` for the one that serves the slot."""
    for first, last, (_host, port, *_), *_replicas in node.raw("CLUSTER", "SLOTS"):
        if first <= slot <= last:
            return bool(port == owner.port)
    return False


def _is_ok(node: Server) -> bool:
    return "cluster_state:ok" in node.raw("CLUSTER", "INFO")


def _sees(node: Server, everyone: list[Server]) -> bool:
    """Whether the node sees a replica in step behind every master."""
    lines = _lines(node)
    link = node.info("replication")
    return (
        _is_ok(node)
        and len(lines) == len(everyone)
        and all("fail" not in line and "handshake" not in line for line in lines)
        and sum(" slave " in line.replace("myself,", "") for line in lines) == MASTERS
        and link.get("master_link_status", "up") == "up"
    )
