"""The rights of ``rights.toml`` as Redis reads them.

``docs/generate.py`` writes ``users.acl`` and the how-to page's lists with it.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).resolve().parent
SCRIPTS: Final = HERE.parents[1] / "broker" / "redis" / "scripts"

RIGHTS: Final[dict[str, dict[str, Any]]] = tomllib.loads((HERE / "rights.toml").read_text("utf-8"))
"""Role → what it may do."""

CONTAINERS: Final = frozenset({"XINFO", "XGROUP"})
"""Commands whose second word is allowed by itself."""

NOBODY: Final = "user default off ~* &* +@all"
"""Nobody can log in as the user without a name. Only Redis itself is that user, as it reads its
append-only file, and each transaction there must be allowed: where ``default`` has no rights, a
restart silently loses what scripts have written (redis/redis#14541, valkey-io/valkey#3983)."""

_CALL: Final = re.compile(r"redis\.p?call\('([A-Z]+)'(?:, '([A-Z]+)')?")
_INCLUDE: Final = re.compile(r"^-- include: (.+)$", re.MULTILINE)


def rules(role: str, prefix: str = "rc", *, cluster: bool = False) -> str:
    """All of a user's rules but for its password, for Redis 6.2 and later."""
    rights = RIGHTS[role]
    return " ".join(
        [
            *(f"~{prefix}:{key}" for key in rights["keys"]),
            "resetchannels",
            *(f"&{prefix}:{channel}" for channel in rights["channels"]),
            *(f"+{command}" for command in commands(role)),
            *(f"+{command}" for command in rights["cluster"] if cluster),
        ]
    )


def commands(role: str) -> list[str]:
    """What is allowed outside of a Cluster, the commands within the role's scripts included."""
    rights = RIGHTS[role]
    within = {command for script in rights["scripts"] for command in commands_of(script)}
    return sorted(within | set(rights["commands"]))


def commands_of(script: str) -> set[str]:
    """The commands of a script and of the parts that it includes."""
    source = (SCRIPTS / f"{script}.lua").read_text("utf-8")
    included = [name for line in _INCLUDE.findall(source) for name in line.split()]
    found = {
        f"{name}|{word}".lower() if name in CONTAINERS else name.lower()
        for name, word in _CALL.findall(source)
    }
    return found.union(*(commands_of(name) for name in included))


def acl_file() -> str:
    """What ``aclfile`` takes; the passwords are to be put in."""
    users = [f"user {role} on >{role.upper()}_PASSWORD {rules(role)}" for role in RIGHTS]
    return "\n".join([*users, NOBODY, ""])
