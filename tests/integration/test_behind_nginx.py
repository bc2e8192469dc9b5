"""The proxy configuration of docs/how-to/behind-a-proxy.md, run by a real nginx."""

from __future__ import annotations

import asyncio
import re
import shutil
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog

from broker.config import Settings
from gateway.app import Gateway
from tests.integration.test_cross_site import handshake
from tests.support.certificates import Authority
from tests.support.clients import Client
from tests.support.ports import free_port
from tests.support.servers import spawn, wait_until

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "behind-a-proxy.md"

pytestmark = [
    pytest.mark.skipif(NGINX is None, reason="there is no nginx (apt install nginx-light)"),
    pytest.mark.timeout(300),
]


@contextmanager
def nginx(folder: Path, authority: Authority, gateway_port: int) -> Iterator[int]:
    """The page's configuration with other addresses and files; the port that it serves."""
    block = re.search(r"```nginx\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert block is not None
    port, pair = free_port(), authority.issue("chat.example")
    told = block[1]
    for pattern, here in (
        (r"server 10\.0\.0\.1[12]:8080", f"server 127.0.0.1:{gateway_port}"),
        (r"listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        (r"/etc/ssl/chat\.example\.crt", str(pair.certificate)),
        (r"/etc/ssl/chat\.example\.key", str(pair.key)),
    ):
        told, count = re.subn(pattern, here, told)
        assert count, f"{PAGE.name} has no {pattern}"
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{temporary}{told}}}\n"
    )
    assert NGINX is not None
    process = spawn([NGINX, "-p", str(folder), "-c", str(config)], folder / "nginx.log")
    try:
        wait_until(lambda: process.runs() and process.serves(port), what="nginx serves")
        yield port
    finally:
        process.end()


async def test_the_how_tos_nginx_passes_everything_on(settings: Settings, tmp_path: Path) -> None:
    """The upgrade, the page's origin with its scheme, and who the client is."""
    authority = Authority(tmp_path, "authority")
    trusting = ssl.create_default_context(cafile=authority.certificate)
    settings = settings.model_copy(update={"trusted_proxies": ("127.0.0.1",)})
    async with Gateway(settings) as gateway:
        with nginx(tmp_path, authority, gateway.port) as port:
            async with Client(f"https://127.0.0.1:{port}", "alice", ssl=trusting) as client:
                await client.first("live")
                await client.send("ping", {"n": 1}, ref="p")
                assert (await client.reply("p"))["payload"]["n"] == 1

            async def status(*headers: str, bearer: str | None = None) -> int:
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", port, ssl=trusting, local_addr=("127.0.0.2", 0)
                )
                writer.write(handshake(*headers, host=f"127.0.0.1:{port}", bearer=bearer))
                line = await reader.readline()
                writer.close()
                return int(line.split()[1])

            assert await status(f"Origin: https://127.0.0.1:{port}") == 101
            assert await status(f"Origin: http://127.0.0.1:{port}") == 403
            forged = ("X-Forwarded-Host: evil.example", "X-Forwarded-Proto: http")
            assert await status(*forged, "Origin: https://evil.example") == 403
            with structlog.testing.capture_logs() as logs:
                assert await status("X-Forwarded-For: 127.0.0.1", bearer="wrong") == 401
            (told,) = [each for each in logs if each["event"] == "connection_refused"]
            assert told["client"] == "127.0.0.2"
