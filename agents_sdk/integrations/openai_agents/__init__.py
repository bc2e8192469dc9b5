"""The OpenAI Agents SDK: ``return await stream_run(agent, run)``.

Needs ``pip install "runcast[openai-agents]"``.
"""

from agents_sdk.integrations.extras import framework

with framework("openai-agents"):
    from agents_sdk.integrations.openai_agents.hooks import RunEventHooks
    from agents_sdk.integrations.openai_agents.streaming import stream_run

__all__ = ["RunEventHooks", "stream_run"]
