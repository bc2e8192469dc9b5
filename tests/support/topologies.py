"""Redis as it is run in production: replicated, with Sentinel, with TLS, with ACL users.

Every topology is ready when entered and gone when left. ``tests/support/redis_cluster.py`` has the
cluster.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote

from compose.redis import rights
from tests.support.certificates import Authority, Encryption
from tests.support.ports import free_port
from tests.support.redis_server import Server, redis_folder
from tests.support.servers import READY_SECONDS, Fleet, running_fleet, server_program, wait_until

MASTER_NAME = "mymaster"
DOWN_AFTER_MS = 500
FAILOVER_TIMEOUT_MS = 3000


@contextmanager
def fleet_on(url: str, member: Server, **settings: str) -> Iterator[Fleet]:
    """A fleet whose programs are given ``url``; ``member`` is any server behind it."""
    with running_fleet(member, RUNCAST_REDIS_URL=url, **settings) as fleet:
        yield fleet


@dataclass
class Replicated:
    """A master and its replicas, which hold all of its data when this is entered."""

    master: Server
    replicas: list[Server]

    @property
    def replica(self) -> Server:
        return self.replicas[0]

    def detach(self, replica: Server) -> None:
        """It keeps serving what it has and hears nothing of its master any more."""
        replica.command("REPLICAOF", "127.0.0.1", str(free_port()))
        wait_until(
            lambda: replica.info("replication")["master_link_status"] == "down",
            what="the replica is detached",
        )

    def promote(self, replica: Server) -> None:
        """It is a master from now on, with what it has."""
        replica.command("REPLICAOF", "NO", "ONE")

    def promote_without_tail(self, replica: Server) -> None:
        """What was written since :meth:`detach` is lost with the master, as after an asynchronous
        failover."""
        self.master.kill()
        self.promote(replica)

    def follow(self, server: Server, master: Server) -> None:
        """``server`` replicates ``master`` and holds all of its data when this returns."""
        server.command("REPLICAOF", "127.0.0.1", str(master.port))
        wait_until(lambda: _in_step(server, master), what="the replica is in step")


@contextmanager
def replicated_redis(
    replicas: int = 1, binary: Path | None = None, *arguments: str
) -> Iterator[Replicated]:
    """One master with replicas; nobody watches over them."""
    with redis_folder() as folder:
        chosen = binary or server_program()
        everyone = [
            Server(folder / f"redis-{number}", binary=chosen, arguments=arguments)
            for number in range(1 + replicas)
        ]
        group = Replicated(everyone[0], everyone[1:])
        try:
            for server in everyone:
                server.start()
            for replica in group.replicas:
                group.follow(replica, group.master)
            yield group
        finally:
            for server in everyone:
                server.end()


@dataclass
class Sentinel(Server):
    """One sentinel; its configuration is the file that it rewrites by itself."""

    config: tuple[str, ...] = ()

    def start(self) -> None:
        file = self.folder / "sentinel.conf"
        if not file.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            file.write_text("\n".join(self.config) + "\n")
        super().start()

    def first_arguments(self) -> tuple[str, ...]:
        return (str(self.folder / "sentinel.conf"), "--sentinel")


@dataclass
class Watched(Replicated):
    """A replicated Redis under three sentinels, two of which decide."""

    sentinels: list[Sentinel]
    password: str = ""
    tls: Encryption | None = None

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        credentials = f":{quote(self.password, safe='')}@" if self.password else ""
        options = [self.tls.query()] if self.tls is not None else []
        if self.password:
            options.append(f"sentinel_password={quote(of_sentinels(self.password), safe='')}")
        scheme = "redis" if self.tls is None else "rediss"
        query = f"?{'&'.join(options)}" if options else ""
        return f"{scheme}+sentinel://{credentials}{hosts}/{MASTER_NAME}{query}"

    def current_port(self) -> int:
        """Where the sentinels say that the master is; the first that answers."""
        for sentinel in self.sentinels:
            if sentinel.answers():
                _, port = sentinel.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME)
                return int(port)
        raise AssertionError("no sentinel answers")

    def promoted(self, *, seconds: float = READY_SECONDS) -> Server:
        """The replica that the sentinels have made the master instead of ``master``."""

        def follower() -> Server | None:
            port = self.current_port()
            return next((r for r in self.replicas if r.port == port and _is_master(r)), None)

        wait_until(lambda: follower() is not None, seconds=seconds, what="a replica is promoted")
        found = follower()
        assert found is not None
        return found


@contextmanager
def sentinel_redis(
    replicas: int = 1, *, password: str = "", tls: bool = False
) -> Iterator[Watched]:
    """A master, replicas and three sentinels that know of each other.

    With ``password`` the servers ask for it, and the sentinels for one of their own; with ``tls``
    everybody speaks TLS only.
    """
    with redis_folder() as folder:
        encryption = Encryption(folder) if tls else None
        data = [Server(folder / f"redis-{number}") for number in range(1 + replicas)]
        for server in data:
            server.access = {"password": password} if password else {}
            server.arguments = (
                ("--requirepass", password, "--masterauth", password) if password else ()
            )
        sentinels = [Sentinel(folder / f"sentinel-{number}") for number in range(3)]
        ids = {sentinel.port: secrets.token_hex(20) for sentinel in sentinels}
        for sentinel in sentinels:
            sentinel.config = _sentinel_config(sentinel, ids, data, password)
            sentinel.access = {"password": of_sentinels(password)} if password else {}
        for server in (*data, *sentinels):
            if encryption is not None:
                server.access |= encryption.access
                server.arguments += encryption.arguments(server.port)
        group = Watched(data[0], data[1:], sentinels, password, encryption)
        try:
            for server in data:
                server.start()
            for replica in group.replicas:
                group.follow(replica, group.master)
            for sentinel in sentinels:
                sentinel.start()
            for sentinel in sentinels:
                wait_until(partial(_watches, sentinel, replicas), what="the sentinels watch")
            yield group
        finally:
            for server in (*sentinels, *data):
                server.end()


def of_sentinels(password: str) -> str:
    """The sentinels' own password, where the servers have this one."""
    return f"{password}?"


def _sentinel_passwords(password: str) -> tuple[str, ...]:
    """What a sentinel asks for, and what it shows to the servers and to its like."""
    own = of_sentinels(password)
    return (
        f"requirepass {own}",
        f"sentinel sentinel-pass {own}",
        f"sentinel auth-pass {MASTER_NAME} {password}",
    )


def _sentinel_config(
    sentinel: Sentinel, ids: dict[int, str], data: list[Server], password: str
) -> tuple[str, ...]:
    """Everything is told beforehand, so that nothing has to be discovered first."""
    return (
        f"sentinel myid {ids[sentinel.port]}",
        f"sentinel monitor {MASTER_NAME} 127.0.0.1 {data[0].port} 2",
        *(_sentinel_passwords(password) if password else ()),
        f"sentinel down-after-milliseconds {MASTER_NAME} {DOWN_AFTER_MS}",
        f"sentinel failover-timeout {MASTER_NAME} {FAILOVER_TIMEOUT_MS}",
        *(f"sentinel known-replica {MASTER_NAME} 127.0.0.1 {each.port}" for each in data[1:]),
        *(
            f"sentinel known-sentinel {MASTER_NAME} 127.0.0.1 {port} {other}"
            for port, other in ids.items()
            if port != sentinel.port
        ),
    )


@dataclass
class Encrypted:
    """A server that speaks TLS only, with a certificate of ``tls.authority``."""

    server: Server
    tls: Encryption

    def url(self, trusted: Authority | None = None, *, shown: bool | None = None) -> str:
        """With what makes the server trusted, and the certificate that a client shows."""
        query = self.tls.query(trusted, shown=shown)
        return f"rediss://127.0.0.1:{self.server.port}/0?{query}"


@contextmanager
def tls_redis(*, client_certificates: bool = False) -> Iterator[Encrypted]:
    """TLS with an authority of its own; clients show a certificate of it when asked to."""
    with redis_folder() as folder:
        tls = Encryption(folder, client_certificates=client_certificates)
        server = Server(folder / "redis", access=tls.access)
        server.arguments = tls.arguments(server.port)
        try:
            server.start()
            yield Encrypted(server, tls)
        finally:
            server.end()


@dataclass
class Guarded:
    """A server on which nobody is anybody without a password."""

    server: Server
    passwords: dict[str, str]

    def url(self, user: str, password: str | None = None) -> str:
        told = quote(self.passwords[user] if password is None else password, safe="")
        return f"redis://{quote(user, safe='')}:{told}@127.0.0.1:{self.server.port}/0"

    def refused(self) -> list[str]:
        """What the server has refused so far: why, and on what."""
        return [
            f"{entry['username']}: {entry['reason']} {entry['object']}"
            for entry in self.server.command("ACL", "LOG")
        ]


@contextmanager
def acl_redis(users: dict[str, str], binary: Path | None = None) -> Iterator[Guarded]:
    """Users and their rules, as in an ACL file; each gets a password, the default user is off."""
    with redis_folder() as folder:
        passwords = {name: f"p@ss/{secrets.token_hex(8)}" for name in (*users, "admin")}
        rules = {**users, "admin": "~* &* +@all"}
        lines = [f"user {name} on >{passwords[name]} {rules[name]}" for name in rules]
        file = folder / "users.acl"
        file.write_text("\n".join([rights.NOBODY, *lines]) + "\n")
        server = Server(
            folder / "redis",
            binary=binary or server_program(),
            arguments=("--aclfile", str(file)),
            access={"username": "admin", "password": passwords["admin"]},
        )
        try:
            server.start()
            yield Guarded(server, passwords)
        finally:
            server.end()


def _is_master(server: Server) -> bool:
    return server.answers() and bool(server.command("ROLE")[0] == "master")


def _in_step(replica: Server, master: Server) -> bool:
    link, source = replica.info("replication"), master.info("replication")
    return bool(
        link["master_link_status"] == "up"
        and source["connected_slaves"] > 0
        and link["slave_repl_offset"] == source["master_repl_offset"]
    )


def _watches(sentinel: Sentinel, replicas: int) -> bool:
    """Whether this sentinel is connected to everyone and holds nobody for down."""
    master = sentinel.command("SENTINEL", "MASTER", MASTER_NAME)
    followers = sentinel.command("SENTINEL", "REPLICAS", MASTER_NAME)
    others = sentinel.command("SENTINEL", "SENTINELS", MASTER_NAME)
    return (
        [master["flags"]] == ["master"]
        and [each["flags"] for each in others] == ["sentinel"] * 2
        and [each["flags"] for each in followers] == ["slave"] * replicas
        and all(each["master-link-status"] == "ok" for each in followers)
    )
