"""A framework is imported when its adapter is, not before."""

import subprocess
import sys

FRAMEWORKS = ("langchain_core", "langgraph", "opentelemetry.sdk.trace")
"""Of OpenTelemetry the part that an adapter needs: redis-py imports others where they are."""


def python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    return (done.stdout + done.stderr).decode()


def test_the_sdk_imports_no_framework() -> None:
    """Neither it nor what all adapters share."""
    program = f"""
import sys
import agents_sdk, agents_sdk.cli, agents_sdk.testing, agents_sdk.integrations.extras
print([name for name in {FRAMEWORKS} if name in sys.modules])"""
    assert python(program) == "[]\n"
