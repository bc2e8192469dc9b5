"""What an agent author types: declare agents, tell what they do, and let Runcast carry it.

See :class:`Worker`, :class:`Run` and :class:`Publisher`; tests of agents use
:mod:`agents_sdk.testing`.
"""

from agents_sdk.agent import Agent
from agents_sdk.calls import ToolCall
from agents_sdk.context import current_run
from agents_sdk.errors import InputExpired, NoCurrentRun, Reason, RunStopped, WrongEventLoop
from agents_sdk.posted_calls import PostedCall
from agents_sdk.publisher import Publisher
from agents_sdk.run import Run
from agents_sdk.traced import traced_tool
from agents_sdk.worker import Worker
from broker.errors import (
    BrokerUnavailable,
    ConfigurationError,
    EventTooLarge,
    InvalidEvent,
    LifecycleError,
    PublishError,
    RuncastError,
)

__all__ = [
    "Agent",
    "BrokerUnavailable",
    "ConfigurationError",
    "EventTooLarge",
    "InputExpired",
    "InvalidEvent",
    "LifecycleError",
    "NoCurrentRun",
    "PostedCall",
    "PublishError",
    "Publisher",
    "Reason",
    "Run",
    "RunStopped",
    "RuncastError",
    "ToolCall",
    "Worker",
    "WrongEventLoop",
    "current_run",
    "traced_tool",
]
