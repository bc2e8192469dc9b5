"""What users get of an agent whatever its framework is. Each test file names its own agents."""

from tests.support.clients import Client, payload_of


async def a_stop_reaches_a_tool(base: str, agent: str) -> None:
    """``agent`` calls a tool that never comes back, as ``call_wait``."""
    async with Client(base, f"stops {agent}") as client:
        run_id = await client.ask("Wait", agent=agent)
        await client.first("tool_executing", call_id="call_wait")
        await client.send("stop_agent", {"run_id": run_id}, ref="s1")
        payload = payload_of(await client.completed(run_id))
        assert (payload["status"], payload["error"]["code"]) == ("cancelled", "stopped")
        closed = payload_of(await client.first("tool_completed", call_id="call_wait"))
        assert (closed["success"], closed["error"]["code"]) == (False, "run_ended")


async def the_user_approves_a_call(base: str, agent: str, *, prompt: str) -> None:
    """``agent`` deletes ``a.txt``, as ``call_delete``, if it may."""
    async with Client(base, f"approves {agent}") as client:
        run_id = await client.ask("Clean up", agent=agent)
        asked = payload_of(await client.first("input_required"))
        assert asked["prompt"] == prompt
        assert asked["schema"] == {"type": "boolean"}
        answer = {"run_id": run_id, "request_id": asked["request_id"], "content": True}
        await client.send("user_input", answer, ref="a1")
        assert payload_of(await client.completed(run_id))["response"] == "Done."
        done = payload_of(await client.first("tool_completed"))
        assert (done["call_id"], done["result"]) == ("call_delete", "a.txt is gone")
