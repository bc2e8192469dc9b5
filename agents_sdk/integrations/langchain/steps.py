"""What LangChain's callbacks mean for a run. Called from any thread, and never waits."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from langchain_core.documents import Document
from langchain_core.messages import BaseMessage
from langgraph.errors import GraphInterrupt

from agents_sdk.integrations.langchain.answers import reasoning_of, tool_message
from agents_sdk.integrations.speakers import Speakers
from agents_sdk.posted_calls import PostedCall
from agents_sdk.run import Run
from broker import events

DOCUMENT_CHARACTERS: Final = 1000
"""Of each retrieved document: enough to see what was found."""


@dataclass(slots=True)
class Step:
    """One of LangChain's runs that has begun. ``within_tool``: or within a retriever."""

    within_tool: bool
    call: PostedCall | None = None
    speaks: bool = False
    spoke: bool = False


class Steps:
    """The tree of LangChain's runs below one run of ours, and what is told of it.

    A chain is only a place in the tree. A model is a thought when it is asked, and another when it
    tells how it reasoned; its text is the answer's if it speaks. A tool is a call, a retriever too.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._steps: dict[UUID, Step] = {}
        self._interrupted: dict[str, PostedCall] = {}
        self._call_ids: set[str] = set()
        self._asked = 0
        self._speakers = Speakers(run.post_text)

    def begin(self, run_id: UUID, parent: UUID | None) -> Step:
        """Anything begins."""
        above = self._steps.get(parent) if parent is not None else None
        within = above is not None and (above.within_tool or above.call is not None)
        step = self._steps[run_id] = Step(within_tool=within)
        return step

    def end(self, run_id: UUID) -> Step | None:
        """It ended, well or not."""
        return self._steps.pop(run_id, None)

    def asked(
        self, run_id: UUID, parent: UUID | None, name: str, node: str | None, *, speaks: bool
    ) -> None:
        """A model is asked. ``speaks``: its text is the answer's, unless a tool has asked it."""
        step = self.begin(run_id, parent)
        step.speaks = speaks and not step.within_tool
        with self._lock:
            self._asked += 1
            number = self._asked
        thoughts = f"{node}: asking {name}" if node else f"Asking {name}"
        self._run.post(events.AGENT_THINKING, {"thoughts": thoughts, "step": number})

    def token(self, run_id: UUID, text: str) -> None:
        """A model goes on."""
        step = self._steps.get(run_id)
        if step is not None and step.speaks and text:
            step.spoke = True
            with self._lock:
                self._speakers.say(run_id, text)

    def answered(self, run_id: UUID, messages: Sequence[BaseMessage], text: str) -> None:
        """A model is done; one that did not stream says its text now."""
        step = self.end(run_id)
        for message in messages:
            if thoughts := reasoning_of(message):
                self._run.post(events.AGENT_THINKING, {"thoughts": thoughts})
        if step is not None and step.speaks:
            with self._lock:
                if not step.spoke:
                    self._speakers.say(run_id, text)
                self._speakers.end(run_id)

    def model_failed(self, run_id: UUID) -> None:
        """A model broke off: the others may speak. What it means is for the chain to say."""
        self.end(run_id)
        with self._lock:
            self._speakers.end(run_id)

    def called(
        self,
        run_id: UUID,
        parent: UUID | None,
        name: str,
        parameters: Mapping[str, Any],
        call_id: str | None = None,
    ) -> None:
        """A tool or a retriever is called; one that an interrupt broke off goes on."""
        step = self.begin(run_id, parent)
        self._run.raise_if_stopped()
        with self._lock:
            if call_id is not None and (call := self._interrupted.pop(call_id, None)):
                step.call = call
                return
            if call_id is None:
                call_id = str(run_id)
            elif call_id in self._call_ids:  # models and reruns use an id again
                call_id = f"{call_id}-{run_id}"
            self._call_ids.add(call_id)
        step.call = self._run.post_call(name, parameters=parameters, call_id=call_id)

    def returned(self, run_id: UUID, output: Any) -> None:
        """A tool returned. What it says to the model is its result."""
        call = self._call(run_id)
        if call is None:
            return
        message = tool_message(output)
        if message is None:
            call.returned(output)
        elif message.status == "error":
            call.failed("tool_error", str(message.text))
        else:
            call.returned(message.content)

    def found(self, run_id: UUID, documents: Sequence[Document]) -> None:
        """A retriever returned."""
        if (call := self._call(run_id)) is not None:
            call.returned([_summary(each) for each in documents])

    def raised(self, run_id: UUID, error: BaseException) -> None:
        """A tool or a retriever raised. An interrupt is none: its call goes on with the answer."""
        call = self._call(run_id)
        if call is None:
            return
        if isinstance(error, GraphInterrupt):
            with self._lock:
                self._interrupted[call.id] = call
        else:
            call.raised(error)

    def _call(self, run_id: UUID) -> PostedCall | None:
        step = self.end(run_id)
        return step.call if step is not None else None


def _summary(document: Document) -> dict[str, Any]:
    text = document.page_content
    if len(text) > DOCUMENT_CHARACTERS:
        text = text[: DOCUMENT_CHARACTERS - 1] + "…"
    return {"content": text, "metadata": document.metadata}
