"""What the AI SDK's client makes of chunks: the message's parts. It refuses what the client would.

After ``processUIMessageStream`` of npm ``ai`` 7; the official client is in tests/conformance.
"""

from typing import Any

Part = dict[str, Any]
ENDS = ("finish", "abort", "error")


class UiMessage:
    """One message, over all responses that it is told in."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.metadata: dict[str, Any] = {}
        self.ended: str | None = None
        self._open: dict[str, Part] = {}

    def take(self, chunk: Part) -> None:
        kind = chunk["type"]
        if kind == "start":
            self.ended = None
            self._open.clear()
        assert self.ended is None, f"{kind} after the end"
        self.metadata.update(chunk.get("messageMetadata", {}).get("runcast", {}))
        if kind in ("text-start", "reasoning-start"):
            assert chunk["id"] not in self._open
            part = {"type": kind.removesuffix("-start"), "text": "", "state": "streaming"}
            self._open[chunk["id"]] = part
            self._add(part)
        elif kind in ("text-delta", "reasoning-delta"):
            assert chunk["delta"]
            self._open[chunk["id"]]["text"] += chunk["delta"]
        elif kind in ("text-end", "reasoning-end"):
            self._open.pop(chunk["id"])["state"] = "done"
        elif kind == "start-step":
            self.parts.append({"type": "step-start"})
        elif kind == "reset-step":
            self._open.clear()
            while self.parts and self.parts[-1]["type"] != "step-start":
                self.parts.pop()
        elif kind.startswith("tool-input-"):
            self._call(chunk)
        elif kind.startswith("tool-output-"):
            part = self._tool(chunk["toolCallId"])
            assert part["state"] in ("input-available", "output-available")
            part["state"] = kind.removeprefix("tool-")
            part["output"] = chunk.get("output", chunk.get("errorText"))
        elif kind.startswith("data-"):
            self._data(chunk)
        elif kind in ENDS:
            assert not self._open, f"{kind} while {list(self._open)} is open"
            self.ended = kind

    def _add(self, part: Part) -> None:
        assert any(each["type"] == "step-start" for each in self.parts)
        self.parts.append(part)

    def _call(self, chunk: Part) -> None:
        name = chunk["toolCallId"]
        if chunk["type"] == "tool-input-start":
            self._add({"type": "tool", "id": name, "state": "input-streaming"})
        else:
            part = self._tool(name)
            assert part["state"] == "input-streaming"
            part |= {"state": "input-available", "tool": chunk["toolName"], "input": chunk["input"]}

    def _tool(self, name: str) -> Part:
        """The client throws for one that is not there."""
        return [part for part in self.parts if part.get("id") == name and part["type"] == "tool"][
            -1
        ]

    def _data(self, chunk: Part) -> None:
        for part in self.parts:
            if (part["type"], part.get("id")) == (chunk["type"], chunk["id"]):
                part["data"] = chunk["data"]
                return
        self._add(dict(chunk))

    @property
    def text(self) -> str:
        return "".join(part["text"] for part in self.parts if part["type"] == "text")

    @property
    def others(self) -> list[Part]:
        """Its parts but for the text and where steps begin."""
        return [part for part in self.parts if part["type"] not in ("text", "step-start")]
