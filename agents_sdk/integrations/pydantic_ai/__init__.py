"""Pydantic AI: ``return await stream_run(agent, run)``.

Needs ``pip install "runcast[pydantic-ai]"``.
"""

from agents_sdk.integrations.extras import framework

with framework("pydantic-ai"):
    from agents_sdk.integrations.pydantic_ai.handler import RunEventHandler
    from agents_sdk.integrations.pydantic_ai.streaming import stream_run

__all__ = ["RunEventHandler", "stream_run"]
