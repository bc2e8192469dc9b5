"""A framework is imported when its adapter is, not before; without it the adapter says so."""

import subprocess
import sys

import pytest

ADAPTERS = {
    "langchain": ("langchain", "langchain_core"),
    "openai_agents": ("openai-agents", "agents"),
    "otel": ("otel", "opentelemetry.sdk.trace"),
    "pydantic_ai": ("pydantic-ai", "pydantic_ai"),
}
"""Module of agents_sdk.integrations → the extra that it needs, and what that installs.

Of OpenTelemetry the part that the adapter needs: redis-py imports others where they are.
"""


def python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    return (done.stdout + done.stderr).decode()


def test_the_sdk_imports_no_framework() -> None:
    """Neither it nor what all adapters share."""
    names = [name for _, name in ADAPTERS.values()]
    program = f"""
import sys
import agents_sdk, agents_sdk.cli, agents_sdk.testing, agents_sdk.integrations.extras
print([name for name in {names} if name in sys.modules])"""
    assert python(program) == "[]\n"


@pytest.mark.parametrize("module", ADAPTERS)
def test_without_its_framework_an_adapter_names_the_extra(module: str) -> None:
    extra, name = ADAPTERS[module]
    program = f"import sys; sys.modules[{name!r}] = None; import agents_sdk.integrations.{module}"
    assert f'pip install "runcast[{extra}]"' in python(program)
