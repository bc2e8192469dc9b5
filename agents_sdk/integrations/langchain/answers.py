"""What of a graph is its answer: which models say it, and what its result is as text."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, Final

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langgraph.constants import TAG_NOSTREAM
from langgraph.pregel import Pregel
from langgraph.types import Command, Interrupt

from agents_sdk.values import jsonable

END: Final = "__end__"
PROMPTS: Final = ("prompt", "question", "message")
"""Where an interrupt's value has its text, by the habits of those who write graphs."""


def ending_nodes(graph: Pregel[Any, Any, Any, Any]) -> frozenset[str] | None:
    """The nodes from which the graph may end, ``subgraph:node`` within subgraphs.

    ``None`` = the graph does not tell, as one whose nodes choose the next one while they run.
    """
    edges = graph.get_graph(xray=True).edges
    return frozenset(edge.source for edge in edges if edge.target == END) or None


def says_the_answer(
    nodes: Collection[str] | None, *, tags: Collection[str], metadata: Mapping[str, Any]
) -> bool:
    """Whether a model's text is a part of the answer; ``nodes``: those whose models' is.

    A node stands for all that runs within it. A model with LangGraph's tag ``nostream`` never is.
    """
    if TAG_NOSTREAM in tags:
        return False
    if nodes is None:
        return True
    within = str(metadata.get("langgraph_checkpoint_ns", "")).split("|")
    names = [each.partition(":")[0] for each in within]
    paths = {":".join(names[:count]) for count in range(1, len(names) + 1)}
    return bool(paths.intersection(nodes)) or metadata.get("langgraph_node") in nodes


def result_of(value: Any) -> Any:
    """A graph's or a chain's result as a response: the last message's text, or the value as JSON.

    Of a state with ``messages`` it is the last one of a model.
    """
    if isinstance(value, Mapping) and isinstance(messages := value.get("messages"), list):
        said = [each for each in messages if isinstance(each, AIMessage)]
        if said:
            return str(said[-1].text)
    if isinstance(value, BaseMessage):
        return str(value.text)
    return jsonable(value)


def reasoning_of(message: BaseMessage) -> str:
    """What a model thought before it answered, if it tells."""
    if not isinstance(message, AIMessage):
        return ""
    blocks = (each for each in message.content_blocks if each["type"] == "reasoning")
    return "\n".join(text for each in blocks if (text := each.get("reasoning", "")))


def tool_message(output: Any) -> ToolMessage | None:
    """The message for the model in what a tool returned, if there is one."""
    if isinstance(output, Command) and isinstance(output.update, Mapping):
        found = output.update.get("messages")
        output = found[-1] if isinstance(found, list) and found else None
    return output if isinstance(output, ToolMessage) else None


def question_of(interrupt: Interrupt[Any]) -> tuple[str, dict[str, Any] | None]:
    """What an interrupt asks: its prompt, and the JSON Schema of the answer if it has one."""
    value, schema = interrupt.value, interrupt.response_schema
    prompt = value
    if isinstance(value, Mapping):
        prompt = next((value[key] for key in PROMPTS if isinstance(value.get(key), str)), value)
    if not isinstance(prompt, str):
        prompt = json.dumps(jsonable(prompt), ensure_ascii=False)
    return prompt, schema if isinstance(schema, dict) else None
