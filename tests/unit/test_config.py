"""Settings: where they come from, what is refused, and what a refusal says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from broker.config import Settings, load_settings, state_dir
from broker.errors import ConfigurationError


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("RUNCAST_"):
            monkeypatch.delenv(name)


def refusal(config_file: Path | None = None, **overrides: object) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(config_file, **overrides)
    return caught.value


def test_defaults_are_the_documented_ones() -> None:
    settings = load_settings()
    assert settings.redis_url is None
    assert (settings.prefix, settings.partitions) == ("rc", 128)
    assert (settings.host, settings.port) == ("127.0.0.1", 8080)
    assert (settings.history_events, settings.history_ttl_seconds) == (1000, 86400)
    assert (settings.max_event_bytes, settings.max_message_bytes) == (262144, 65536)
    assert (settings.max_connections_per_user, settings.messages_per_minute) == (50, 120)
    assert (settings.heartbeat_seconds, settings.lease_seconds) == (25, 15)
    assert (settings.queue_timeout_seconds, settings.stop_deadline_seconds) == (60, 10)
    assert (settings.drain_seconds, settings.default_agent) == (30, None)
    assert (settings.allow_query_token, settings.log_format) == (False, "console")


def test_flags_win_over_environment_over_file_over_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "runcast.toml"
    file.write_text('host = "file"\nport = 1\nprefix = "file"\nallowed_origins = ["https://a"]\n')
    monkeypatch.setenv("RUNCAST_HOST", "env")
    monkeypatch.setenv("RUNCAST_PORT", "2")
    settings = load_settings(file, port=3, partitions=None)
    assert (settings.prefix, settings.host, settings.port) == ("file", "env", 3)
    assert settings.partitions == 128
    assert settings.allowed_origins == ("https://a",)


def test_lists_in_the_environment_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNCAST_ALLOWED_ORIGINS", "https://a, https://b,")
    assert load_settings().allowed_origins == ("https://a", "https://b")


def test_an_empty_variable_is_an_absent_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNCAST_REDIS_URL", "")
    assert load_settings().redis_url is None


def test_settings_cannot_be_changed() -> None:
    settings = load_settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1  # type: ignore[misc]


def test_an_unknown_variable_is_refused_with_the_nearest_known_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RUNCAST_REDIS_URI", "redis://x")
    error = refusal()
    assert error.setting == "RUNCAST_REDIS_URI"
    assert "RUNCAST_REDIS_URL" in error.todo


@pytest.mark.parametrize(("typed", "meant"), [("prot", "port"), ("hsot", "host")])
def test_swapped_letters_of_a_short_name_are_understood(
    typed: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``RUNCAST_PROT`` was asked whether it meant ``RUNCAST_PREFIX``."""
    monkeypatch.setenv(f"RUNCAST_{typed.upper()}", "1")
    assert refusal().todo == f"Did you mean RUNCAST_{meant.upper()}?"


def test_an_unknown_key_in_the_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "runcast.toml"
    file.write_text("drain_second = 3\n")
    error = refusal(file)
    assert "drain_second in" in error.setting
    assert "drain_seconds" in error.todo


def test_a_wrong_value_names_where_it_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "runcast.toml"
    file.write_text("partitions = 0\n")
    assert refusal(file).setting == f"partitions in {file}"
    assert refusal(None, port=70000).setting == "--port"
    monkeypatch.setenv("RUNCAST_LOG_FORMAT", "xml")
    error = refusal()
    assert error.setting == "RUNCAST_LOG_FORMAT"
    assert "console or json" in error.todo


@pytest.mark.parametrize(
    ("times", "least"),
    [
        ({"history_ttl_seconds": 100}, 120),
        ({"queue_timeout_seconds": 50_000}, 100_000),
        ({"lease_seconds": 50_000}, 100_000),
        ({"stop_deadline_seconds": 50_000}, 100_000),
    ],
)
def test_a_runs_record_outlives_the_time_after_which_it_is_ended(
    times: dict[str, int], least: int
) -> None:
    error = refusal(None, **times)
    assert f"{least} or more" in error.why
    assert "history_ttl" in error.setting.lower().replace("-", "_")
    allowed = load_settings(None, **{**times, "history_ttl_seconds": least})
    assert allowed.history_ttl_seconds == least
    assert refusal(None, **{**times, "history_ttl_seconds": least - 1}).setting


@pytest.mark.parametrize(
    "url",
    ["localhost:6379", "http://h:1", "memcached://h", "", "redis://h:port"],
)
def test_a_redis_url_that_cannot_be_is_refused(url: str) -> None:
    assert "redis://" in refusal(None, redis_url=url).todo


@pytest.mark.parametrize(
    "url",
    [
        "redis://h:6379/0",
        "rediss://h",
        "unix:///run/redis.sock",
        "redis+sentinel://h1:26379,h2:26379/mymaster",
        "rediss+cluster://h1:7000,h2:7001",
    ],
)
def test_every_documented_redis_url_is_accepted(url: str) -> None:
    assert load_settings(None, redis_url=url).redis_url == url


def test_a_file_that_is_not_there_or_not_toml_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "none.toml").why
    file = tmp_path / "bad.toml"
    file.write_text("port: 8080\n")
    assert "not TOML" in refusal(file).why


def test_no_secret_is_seen_in_repr_or_in_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(
        None,
        jwt_secret="s3cret" * 8,
        operator_key="0perator" * 4,
        worker_key="w0rker" * 8,
        redis_url="redis://:passw0rd@h",
    )
    for shown in (repr(settings), str(settings)):
        for secret in ("s3cret", "0perator", "w0rker", "passw0rd"):
            assert secret not in shown
    monkeypatch.setenv("RUNCAST_OPERATOR_KEY", "sh0rt")
    assert "sh0rt" not in str(refusal())


def test_the_state_folder_follows_the_base_directories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/var/state")
    assert state_dir() == Path("/var/state/runcast")
    monkeypatch.setenv("XDG_STATE_HOME", "relative/is/ignored")
    monkeypatch.setenv("HOME", "/home/alice")
    assert state_dir() == Path("/home/alice/.local/state/runcast")


def test_every_setting_says_what_it_may_be() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
