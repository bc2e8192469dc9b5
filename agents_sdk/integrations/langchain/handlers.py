"""LangChain's callbacks as events of a run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGeneration, LLMResult

from agents_sdk.context import current_run
from agents_sdk.integrations.langchain.answers import says_the_answer
from agents_sdk.integrations.langchain.steps import Steps
from agents_sdk.posts import is_running
from agents_sdk.run import Run
from broker.errors import PublishError

Serialized = Mapping[str, Any] | None


class RunCallbackHandler(BaseCallbackHandler):
    """``chain.invoke(…, {"callbacks": [RunCallbackHandler(run)]})``, from code that is not async.

    Works in whatever threads LangChain calls it, and never waits: events are sent in the order in
    which it was told. It opens and ends no run; calls that LangChain never ends are ended with the
    run. Once the run was told to end, the next step that LangChain begins raises
    :class:`~agents_sdk.errors.RunStopped`.

    ``run``: absent = the current one. ``answer``: names of LangGraph nodes; the text of models in
    these is the streamed answer. Absent: of all models but those that run within a tool, and those
    with the tag ``nostream``. One handler is for one run.
    """

    run_inline = True  # in an async chain too: in a thread of the executor it could be overtaken
    raise_error = True  # else a stop could not leave it; it raises nothing but that

    def __init__(self, run: Run | None = None, *, answer: Collection[str] | None = None) -> None:
        self._run = run if run is not None else current_run()
        self._answer = {answer} if isinstance(answer, str) else answer
        self._steps = Steps(self._run)

    def on_chain_start(
        self,
        serialized: Serialized,
        inputs: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **more: Any,
    ) -> Any:
        """A place in the tree."""
        self._steps.begin(run_id, parent_run_id)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **more: Any) -> Any:
        """It is left."""
        self._steps.end(run_id)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **more: Any) -> Any:
        """Also by an exception, which goes on to whoever called the chain."""
        self._steps.end(run_id)

    def on_chat_model_start(
        self,
        serialized: Serialized,
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **more: Any,
    ) -> Any:
        """``agent_thinking``."""
        self._asked(serialized, run_id, parent_run_id, more)

    def on_llm_start(
        self,
        serialized: Serialized,
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **more: Any,
    ) -> Any:
        """The same for a model without messages."""
        self._asked(serialized, run_id, parent_run_id, more)

    def _asked(
        self, serialized: Serialized, run_id: UUID, parent: UUID | None, more: dict[str, Any]
    ) -> None:
        self._run.raise_if_stopped()
        metadata = more.get("metadata") or {}
        name = metadata.get("ls_model_name") or _name(serialized, more)
        node = metadata.get("langgraph_node")
        tags = more.get("tags") or ()
        speaks = says_the_answer(self._answer, tags=tags, metadata=metadata)
        self._steps.asked(run_id, parent, name, node, speaks=speaks)

    def on_llm_new_token(self, token: Any, *, chunk: Any = None, run_id: UUID, **more: Any) -> Any:
        """Streamed text."""
        self._run.raise_if_stopped()
        message = getattr(chunk, "message", None)
        text = message.text if message is not None else token
        self._steps.token(run_id, str(text))

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **more: Any) -> Any:
        """What it reasoned as ``agent_thinking``; its text if it did not stream it."""
        first = [each[0] for each in response.generations if each]
        messages = [each.message for each in first if isinstance(each, ChatGeneration)]
        self._steps.answered(run_id, messages, "".join(each.text for each in first))

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **more: Any) -> Any:
        """The exception goes on to the chain."""
        self._steps.model_failed(run_id)

    def on_tool_start(
        self,
        serialized: Serialized,
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        inputs: dict[str, Any] | None = None,
        **more: Any,
    ) -> Any:
        """``tool_executing``; the ``call_id`` is the model's own, or LangChain's run id."""
        parameters = inputs if inputs is not None else {"input": input_str}
        name, call_id = _name(serialized, more), more.get("tool_call_id")
        self._steps.called(run_id, parent_run_id, name, parameters, call_id)

    def on_tool_end(self, output: Any, *, run_id: UUID, **more: Any) -> Any:
        """``tool_completed``."""
        self._steps.returned(run_id, output)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **more: Any) -> Any:
        """``tool_completed`` with ``success: false``."""
        self._steps.raised(run_id, error)

    def on_retriever_start(
        self,
        serialized: Serialized,
        query: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **more: Any,
    ) -> Any:
        """A retriever is a tool whose parameter is the query."""
        self._steps.called(run_id, parent_run_id, _name(serialized, more), {"query": query})

    def on_retriever_end(self, documents: Sequence[Document], *, run_id: UUID, **more: Any) -> Any:
        """Its result is the beginning of each document, with its metadata."""
        self._steps.found(run_id, documents)

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **more: Any) -> Any:
        """As a tool's."""
        self._steps.raised(run_id, error)


class AsyncRunCallbackHandler(RunCallbackHandler):
    """The same for ``await chain.ainvoke(…)``: a model or tool that outruns Redis waits for it.

    Chains that LangChain runs in threads in between are told without waiting.
    """

    async def on_llm_new_token(
        self, token: Any, *, chunk: Any = None, run_id: UUID, **more: Any
    ) -> Any:
        """Streamed text."""
        super().on_llm_new_token(token, chunk=chunk, run_id=run_id, **more)
        await self._room()

    async def on_tool_start(
        self, serialized: Serialized, input_str: str, *, run_id: UUID, **more: Any
    ) -> Any:
        """``tool_executing``."""
        super().on_tool_start(serialized, input_str, run_id=run_id, **more)
        await self._room()

    async def _room(self) -> None:
        if is_running(self._run.loop):
            with suppress(PublishError):  # it is sent when Redis is back
                await self._run.room()


def _name(serialized: Serialized, more: Mapping[str, Any]) -> str:
    """What LangChain calls it here, or how it calls itself."""
    if name := more.get("name"):
        return str(name)
    known = serialized or {}
    return str(known.get("name") or (known.get("id") or ["unnamed"])[-1])
