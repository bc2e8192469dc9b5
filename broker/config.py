"""Every setting, read once, at the edge: flags, then ``RUNCAST_*``, a TOML file, the defaults.

Nothing else in Runcast reads the environment. A setting that is unknown or cannot work is refused
with :class:`ConfigurationError`, which names it and says what to do; no setting is ever ignored.
It is long because it is one table.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from broker.errors import ConfigurationError
from broker.events import LIFECYCLE
from broker.limits import TenantLimits, tenant_limits
from broker.redis.address import parse

ENV_PREFIX: Final = "RUNCAST_"


def _split(value: object) -> object:
    """A list in an environment variable is separated by commas."""
    if isinstance(value, Path):
        return (str(value),)
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _reachable(value: object) -> object:
    """A URL that a connection can be opened with; what is wrong with it otherwise."""
    if isinstance(value, str):
        parse(value)
    return value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
TenantRows = Annotated[Mapping[str, TenantLimits], NoDecode, BeforeValidator(tenant_limits)]
Port = Annotated[int, Field(ge=0, le=65535)]
Positive = Annotated[int, Field(ge=1)]
Secrets = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_split)]
Durability = Literal["acknowledged", "replicated"]
Tracing = Literal["off", "on", "follow"]


def least_ttl_seconds(settings: Mapping[str, Any]) -> int:
    """What ``history_ttl_seconds`` must be, with these, for a run's record to outlive its end."""
    ending = ("lease_seconds", "queue_timeout_seconds", "stop_deadline_seconds")
    longest: int = max(settings.get(each, 0) for each in ending)  # a refused one is not there
    return 2 * longest


class Settings(BaseSettings):
    """All settings of a gateway, a worker or a client; immutable. Secrets are masked in ``repr``.

    Each description says what the setting may be, and is what a refusal tells the operator to do.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    redis_url: Annotated[str | None, BeforeValidator(_reachable)] = Field(
        default=None,
        repr=False,  # may hold a password
        description="redis://host:6379/0, rediss://host:6380, unix:///path/redis.sock, "
        "redis+sentinel://host:26379,host:26379/master or redis+cluster://host:7000,host:7001; "
        "absent: a Redis of its own",
    )
    sweeper_redis_url: Annotated[str | None, BeforeValidator(_reachable)] = Field(
        default=None,
        repr=False,  # as above
        description="the same Redis for a user with the sweeper's rights, who ends the runs of "
        "others and publishes for HTTP workers; absent: RUNCAST_REDIS_URL does that too",
    )
    prefix: str = Field(
        default="rc",
        pattern=r"^[A-Za-z0-9_.-]{1,32}$",
        description="1 to 32 of A-Z a-z 0-9 _ . - ; begins every key, apart per application",
    )
    partitions: int = Field(
        default=128,
        ge=1,
        le=4096,
        description="1 to 4096, the same everywhere; a change makes kept history unreachable",
    )
    host: str = Field(default="127.0.0.1", min_length=1, description="the address to listen on")
    port: Port = Field(default=8080, description="0 to 65535; 0 picks a free port")
    tls_certificate_file: Path | None = Field(
        default=None,
        description="a PEM file with the listener's certificate and those that signed it; with "
        "RUNCAST_TLS_KEY_FILE the gateway speaks https and wss, absent: http and ws",
    )
    tls_key_file: Path | None = Field(
        default=None, description="a PEM file with the key of that certificate"
    )
    tls_key_password: SecretStr | None = Field(
        default=None, description="what that key is encrypted with; absent: it is not"
    )
    trusted_proxies: Names = Field(
        default=(),
        description="proxies whose X-Forwarded-For, -Proto and -Host count, as "
        "10.0.0.7,10.1.0.0/16,fd00::/8; absent: nobody's do",
    )

    jwt_secret: SecretStr | None = Field(
        default=None, description="the shared secret of HS256 (32 bytes or more), HS384 or HS512"
    )
    jwt_public_key_file: Names = Field(
        default=(),
        description="PEM files with public keys of RS*, PS*, ES* or EdDSA, separated by commas, "
        "each a path or kid=path",
    )
    jwt_jwks_url: str | None = Field(
        default=None,
        description="a key set: https://login.example/.well-known/jwks.json, http:// on this "
        "machine only, or file:///path/keys.json, where secrets may be in it too",
    )
    jwt_jwks_stale_seconds: int = Field(
        default=3600,
        ge=0,
        le=604800,
        description="0 to 604800: how long a key set counts on after it should have been fetched "
        "again and could not be",
    )
    jwt_algorithms: Names = Field(
        default=(),
        description="algorithms to accept, separated by commas; absent: HS256 with a secret, "
        "RS256,ES256,EdDSA with public keys",
    )
    jwt_audience: Names = Field(
        default=(),
        description="the `aud` that tokens must carry; several separated by commas, one is enough",
    )
    jwt_issuer: str | None = Field(default=None, description="the `iss` that tokens must carry")
    jwt_type: str | None = Field(
        default=None, description="the `typ` that the headers of tokens must carry, as at+jwt"
    )
    jwt_leeway_seconds: int = Field(
        default=0, ge=0, le=300, description="0 to 300: tolerated difference between clocks"
    )
    jwt_max_age_seconds: int = Field(
        default=2592000,
        ge=1,
        le=31536000,
        description="1 to 31536000: a token that is valid for longer, from its `iat` to its `exp`, "
        "is refused: a revocation is remembered for so long",
    )
    audit_ttl_seconds: Positive = Field(
        default=7_776_000, description="1 or more: seconds that an operator's action is kept"
    )
    operator_key: SecretStr | None = Field(
        default=None, min_length=16, description="bearer key of operators, 16 characters or more"
    )
    metrics_key: SecretStr | None = Field(
        default=None,
        min_length=16,
        description="bearer key of who may scrape /metrics, 16 characters or more",
    )
    worker_metrics_port: Port | None = Field(
        default=None,
        description="0 to 65535: `runcast worker` serves its metrics there, at RUNCAST_HOST; 0 "
        "picks a free one; absent: nowhere",
    )
    worker_key: SecretStr | None = Field(
        default=None, min_length=32, description="bearer key of HTTP workers, 32 or more characters"
    )
    allow_query_token: bool = Field(
        default=False, description="true or false: accept ?token=, which proxies write into logs"
    )
    allowed_origins: Names = Field(
        default=(),
        description="origins of pages that may connect, as https://a.example,https://*.b.example "
        "(every name below b.example); absent: only the gateway's own",
    )

    history_events: Positive = Field(
        default=1000, description="1 or more: events kept per channel (about; Redis trims blocks)"
    )
    max_event_bytes: int = Field(
        default=262144, ge=1024, le=8388608, description="1024 to 8388608: largest encoded event"
    )
    max_message_bytes: int = Field(
        default=65536, ge=1024, le=8388608, description="1024 to 8388608: largest frame of a client"
    )
    max_connections_per_user: Positive = Field(
        default=50, description="1 or more: connections of one user at all gateways together"
    )
    connects_per_second: Positive = Field(
        default=10,
        description="1 or more: new connections of one user; twice his connections in a burst",
    )
    messages_per_minute: Positive = Field(
        default=120, description="1 or more: messages of one user, which may come all at once"
    )
    max_runs_per_user: Positive = Field(
        default=200, description="1 or more: a user's open runs beyond which a message is refused"
    )
    max_queued_runs_per_user: Positive = Field(
        default=100, description="1 or more: the same for those of them that wait for a worker"
    )
    max_threads_per_user: Positive = Field(
        default=10_000, description="1 or more: threads used within the retention time"
    )
    tenant_limits: TenantRows = Field(
        default={},
        description="limits of tenants, as a TOML table or JSON: "
        '{"acme": {"connections": 500, "user": {"connections": 5}}}; "*" is every other tenant',
    )
    heartbeat_seconds: Positive = Field(default=25, description="1 or more")
    lease_seconds: int = Field(
        default=15, ge=2, description="2 or more: a run whose worker is silent for longer is lost"
    )
    queue_timeout_seconds: Positive = Field(
        default=60, description="1 or more: a run that no worker claims for longer is abandoned"
    )
    stop_deadline_seconds: Positive = Field(
        default=10, description="1 or more: a stopped run that has not ended by then is cancelled"
    )
    input_seconds: Positive = Field(
        default=900, description="1 or more: how long a run that asks its user waits by default"
    )
    history_ttl_seconds: Positive = Field(
        default=86400,
        validate_default=True,
        description="4 or more seconds that a silent channel's events and runs are kept, and at "
        "least twice the longest of lease, queue time-out and stop deadline",
    )
    drain_seconds: int = Field(
        default=30, ge=0, description="0 or more: time to finish after SIGTERM"
    )
    durability: Durability = Field(
        default="acknowledged",
        description="acknowledged or replicated: a run or lifecycle event counts as written when "
        "the master has it, or only when a replica has confirmed it as well",
    )
    default_agent: str | None = Field(
        default=None, description="the agent of messages that name none; absent: the only one"
    )

    webhook_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^/?#]",
        repr=False,  # may hold a password
        description="where events are posted, as https://backend.example/runcast; absent: nowhere",
    )
    webhook_secrets: Secrets = Field(
        default=(),
        description="what posted events are signed with: whsec_ and 24 to 64 bytes in base64; "
        "several separated by commas while one replaces another: all of them sign",
    )
    webhook_events: Names = Field(
        default=("agent_completed",),
        description=f"which events are posted, separated by commas, of {', '.join(LIFECYCLE)}",
    )
    webhook_allow_http: bool = Field(
        default=False,
        description="true or false: post to http:// on other machines too, readable on the way",
    )
    webhook_ca_file: Path | None = Field(
        default=None,
        description="a PEM file with the authorities that the webhook's certificate may be signed "
        "by; absent: those of the system",
    )
    webhook_timeout_seconds: int = Field(
        default=10, ge=1, le=60, description="1 to 60: how long the answer to one post may take"
    )
    webhook_retry_seconds: Positive = Field(
        default=86400,
        description="1 or more: for how long an event that is not taken is posted again",
    )
    webhook_max_in_flight: int = Field(
        default=32, ge=1, le=1000, description="1 to 1000: posts under way at the same time"
    )
    webhook_max_waiting: Positive = Field(
        default=1000,
        description="1 or more: events that wait in one partition; more are dropped, and counted",
    )

    tracing: Tracing = Field(
        default="off",
        description="off, on or follow: record traces with OpenTelemetry and send them by "
        "OTLP/HTTP, as the OTEL_* variables say; follow: whether a client's trace is recorded is "
        "the client's to decide",
    )
    log_format: Literal["console", "json"] = Field(default="console", description="console or json")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="debug, info, warning or error"
    )
    data_dir: Path | None = Field(
        default=None, description="directory of the embedded Redis; absent: the user's state folder"
    )
    url: str = Field(
        default="ws://127.0.0.1:8080/ws",
        pattern=r"^(ws|wss|http|https)://",
        description="where `runcast chat` and `runcast tail` find the gateway, as ws://host:port/ws",
    )

    @field_validator("history_ttl_seconds")
    @classmethod
    def _outlives_its_end(cls, seconds: int, info: ValidationInfo) -> int:
        """A run whose record is gone before its time is up gets no ``agent_completed``."""
        if seconds < (least := least_ttl_seconds(info.data)):
            raise ValueError(f"should be {least} or more with the times after which runs are ended")
        return seconds


def load_settings(config_file: Path | None = None, **overrides: object) -> Settings:
    """Settings from ``overrides`` (``None`` = not given), ``RUNCAST_*``, the file, the defaults.

    :raises ConfigurationError: a setting is unknown or its value impossible, or the file cannot be
        read.
    """
    given = {key: value for key, value in overrides.items() if value is not None}
    from_env = _environment()
    from_file = {} if config_file is None else _read_toml(config_file)
    # pydantic-settings puts arguments above the environment; the file belongs below it.
    below = {key: value for key, value in from_file.items() if key not in from_env}
    try:
        return Settings(**{**below, **given})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    field = str(first["loc"][0])
    place = from_env.get(field, f"{ENV_PREFIX}{field.upper()}")
    if field in given:
        place = f"--{field.replace('_', '-')}"
    elif field in from_file and field not in from_env:
        place = f"{field} in {config_file}"
    raise ConfigurationError(
        setting=place,
        why=first["msg"].removeprefix("Value error, ").removeprefix("Input "),
        todo=f"It is {Settings.model_fields[field].description}.",
    )


def state_dir() -> Path:
    """Where this user's programs keep state (XDG base directories); not created here."""
    base = os.environ.get("XDG_STATE_HOME", "")
    root = Path(base) if base.startswith("/") else Path.home() / ".local" / "state"
    return root / "runcast"


def _environment() -> dict[str, str]:
    """Field → the variable that sets it."""
    found = {}
    for variable, value in os.environ.items():
        if variable.upper().startswith(ENV_PREFIX):
            name = variable[len(ENV_PREFIX) :].lower()
            if name not in Settings.model_fields:
                raise _unknown(variable, f"{ENV_PREFIX}{_closest(name).upper()}")
            if value:
                found[name] = variable
    return found


def _read_toml(config_file: Path) -> dict[str, Any]:
    try:
        with config_file.open("rb") as file:
            values = tomllib.load(file)
    except OSError as error:
        raise ConfigurationError(
            setting=str(config_file),
            why=error.strerror or str(error),
            todo="Check the path of the configuration file.",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            setting=str(config_file),
            why=f"not TOML: {error}",
            todo="Write it as TOML, for example: port = 8080",
        ) from None
    for key in values:
        if key not in Settings.model_fields:
            raise _unknown(f"{key} in {config_file}", _closest(key))
    return values


def _unknown(setting: str, closest: str) -> ConfigurationError:
    return ConfigurationError(
        setting=setting, why="there is no such setting", todo=f"Did you mean {closest}?"
    )


def _closest(name: str) -> str:
    """The known setting that shares the most letter pairs with ``name``, its ends among them."""

    def pairs(word: str) -> set[str]:
        ended = f" {word} "
        return {ended[at : at + 2] for at in range(len(ended) - 1)}

    wanted = pairs(name.lower())
    return max(
        Settings.model_fields,
        key=lambda known: len(wanted & pairs(known)) / len(wanted | pairs(known)),
    )
