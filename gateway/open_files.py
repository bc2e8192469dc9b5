"""How many files a process may have open: a connection is one."""

from __future__ import annotations

import contextlib
import resource


def allow_most() -> int:
    """Raise this process's limit, and so its children's, to the hard one; what it is then.

    The soft limit is low (1,024) on many systems and in many containers, for programs that use
    ``select``, which no gateway does.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # macOS forbids "unlimited"
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
