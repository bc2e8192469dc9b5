"""One assistant message of the Vercel AI SDK as it comes: its chunks, and what is open. Pure.

Chunks are those of ``uiMessageChunkSchema`` in npm ``ai`` 7. Steps, texts and calls are opened when
they are needed and closed before what ends the message.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from gateway.dialects.shown_text import ShownText

METADATA: Final = "runcast"
"""Ours among what the message's metadata has."""

Chunk = dict[str, Any]
Call = tuple[str, str]
"""A run, and the id that a call has in it."""


class Message:
    """``text``: what its client has of the run's text already."""

    def __init__(self, message_id: str, text: ShownText) -> None:
        self._id, self.text = message_id, text
        self._open_text: str | None = None
        self._texts = 0
        self._in_step = False
        self._calls: dict[Call, str] = {}
        self._used: set[str] = set()
        self._subagents: dict[str, Chunk] = {}

    def start(self, told: Chunk) -> Iterator[Chunk]:
        """The message is there; a client that has it goes on with it."""
        yield {"type": "start", "messageId": self._id, "messageMetadata": {METADATA: told}}

    def tell(self, told: Mapping[str, Any]) -> Iterator[Chunk]:
        """Something about the message; it is merged with what was told before."""
        yield {"type": "message-metadata", "messageMetadata": {METADATA: dict(told)}}

    def step(self) -> Iterator[Chunk]:
        """Every part is in a step."""
        if not self._in_step:
            self._in_step = True
            yield {"type": "start-step"}

    def end_step(self) -> Iterator[Chunk]:
        """What comes next is in another step."""
        yield from self._end_text()
        if self._in_step:
            self._in_step = False
            yield {"type": "finish-step"}

    def forget_place(self) -> None:
        """The client has what was said until now, as a message that is not open any more."""
        self._in_step, self._open_text = False, None

    def void(self, why: str) -> Iterator[Chunk]:
        """What this step has shown does not count, nor the text, nor what is open."""
        yield from self.abandon(why)
        yield from self._end_text()
        if self._in_step:
            yield {"type": "reset-step"}
        self._subagents.clear()
        self.text = ShownText()

    # --- how it ends

    def finish(self, reason: str, told: Mapping[str, Any]) -> Iterator[Chunk]:
        """As it should, or until the client has answered."""
        yield from self.end_step()
        yield {
            "type": "finish", "finishReason": reason, "messageMetadata": {METADATA: dict(told)},
        }  # fmt: skip

    def abort(self, reason: str, told: Mapping[str, Any]) -> Iterator[Chunk]:
        """Somebody stopped it."""
        yield from self._end_text()
        yield from self.tell(told)
        yield {"type": "abort", "reason": reason}

    def fail(self, code: str, text: str, told: Mapping[str, Any]) -> Iterator[Chunk]:
        """The client looks at nothing that follows."""
        yield from self._end_text()
        yield from self.tell({**told, "error": {"code": code, "message": text}})
        yield {"type": "error", "errorText": text, "code": code}

    def close(self, why: str) -> Iterator[Chunk]:
        """Whatever is open, since nothing comes any more."""
        yield from self._end_text()
        yield from self.abandon(why)
        for run_id, state in self._subagents.items():
            if state["status"] == "running":
                yield from self.subagent(run_id, status="unknown")

    # --- text

    def say(self, text: str) -> Iterator[Chunk]:
        """More of the text."""
        if text:
            if self._open_text is None:
                yield from self.step()
                self._texts += 1
                self._open_text = f"text-{self._texts}"
                yield {"type": "text-start", "id": self._open_text}
            yield {"type": "text-delta", "id": self._open_text, "delta": text}

    def respond(self, response: object) -> Iterator[Chunk]:
        """The whole response: what of it was not said."""
        if isinstance(response, str):
            rest = self.text.whole(response)
            if rest is None:  # it is another text than the one that was streamed
                yield from self._end_text()
                rest = response
            yield from self.say(rest)
        elif response is not None:
            yield from self.data("response", self._id, response)

    def _end_text(self) -> Iterator[Chunk]:
        if self._open_text is not None:
            yield {"type": "text-end", "id": self._open_text}
            self._open_text = None

    # --- the other parts

    def reason(self, name: str, text: str, by: Chunk) -> Iterator[Chunk]:
        """A thought, all of it."""
        yield from self.step()
        whose = {"providerMetadata": {METADATA: by}} if by else {}
        yield {"type": "reasoning-start", "id": name, **whose}
        yield {"type": "reasoning-delta", "id": name, "delta": text}
        yield {"type": "reasoning-end", "id": name}

    def data(self, kind: str, name: str, data: object) -> Iterator[Chunk]:
        """A part of ours; the same name again replaces it."""
        yield from self.step()
        yield {"type": f"data-{kind}", "id": name, "data": data}

    def subagent(self, run_id: str, **told: object) -> Iterator[Chunk]:
        """A sub-agent's state, merged with what was told of it before."""
        state = self._subagents[run_id] = {**self._subagents.get(run_id, {}), **told}
        yield from self.data("subagent", run_id, {"run_id": run_id, **state})

    def call(self, key: Call, name: str, given: object, **told: object) -> Iterator[Chunk]:
        """A call with its input; a name that was used before is made another one."""
        yield from self._end_text()
        call_id, times = name, 1
        while call_id in self._used:
            times += 1
            call_id = f"{name}#{times}"
        self._used.add(call_id)
        yield from self._begin(key, call_id, given, told)

    def ask(self, key: Call, tool: str, given: object, **told: object) -> Iterator[Chunk]:
        """A call that the client gives the output of; by its id it is known who is answered."""
        yield from self._begin(key, "/".join(key), given, {**told, "toolName": tool})

    def _begin(
        self, key: Call, call_id: str, given: object, told: Mapping[str, object]
    ) -> Iterator[Chunk]:
        self._calls[key] = call_id
        call = {"toolCallId": call_id, "dynamic": True, **told}
        yield from self.step()
        yield {"type": "tool-input-start", **call}
        yield {"type": "tool-input-available", **call, "input": given}

    def output(self, key: Call, output: object) -> Iterator[Chunk]:
        """What a call gave; nothing for one that is not open."""
        if call_id := self._calls.pop(key, None):
            yield {"type": "tool-output-available", "toolCallId": call_id, "output": output}

    def output_error(self, key: Call, why: str) -> Iterator[Chunk]:
        """Why it gave nothing."""
        if call_id := self._calls.pop(key, None):
            yield {"type": "tool-output-error", "toolCallId": call_id, "errorText": why}

    def abandon(self, why: str, run_id: str | None = None) -> Iterator[Chunk]:
        """Nothing comes of what the run has open; without one, of everything."""
        for key in list(self._calls):
            if run_id in (None, key[0]):
                yield from self.output_error(key, why)
