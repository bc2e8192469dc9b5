"""LangChain and LangGraph: ``return await stream_run(graph, run)``.

Needs ``pip install "runcast[langchain]"``.
"""

from agents_sdk.integrations.extras import framework

with framework("langchain"):
    from agents_sdk.integrations.langchain.handlers import (
        AsyncRunCallbackHandler,
        RunCallbackHandler,
    )
    from agents_sdk.integrations.langchain.streaming import stream_run

__all__ = ["AsyncRunCallbackHandler", "RunCallbackHandler", "stream_run"]
