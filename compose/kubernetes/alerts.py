"""The alert rules as the Prometheus Operator takes them, from the file that Prometheus reads.

``docs/generate.py`` writes ``monitoring/alerts.yaml`` with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

RULES: Final = Path(__file__).resolve().parents[1] / "prometheus" / "alerts.yml"

_HEAD: Final = """\
# Made of compose/prometheus/alerts.yml by `python docs/generate.py`.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: runcast
  labels: {app.kubernetes.io/part-of: runcast}
spec:
"""


def alerts() -> str:
    """The manifest: the groups as they are written, one level deeper."""
    _, found, groups = RULES.read_text("utf-8").partition("\ngroups:\n")
    lines = (found + groups).strip().splitlines()
    return _HEAD + "".join(f"  {line}\n" if line else "\n" for line in lines)
