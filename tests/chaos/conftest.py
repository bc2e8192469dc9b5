"""The report: what every fault cost, as one Markdown table at the end of the run."""

import pytest

from tests.support.chaos_report import PROPERTY, Report, Row, as_property, table


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    """Add a row to the table; it also travels from the processes of a parallel run."""

    def add(row: Row) -> None:
        request.node.user_properties.append((PROPERTY, as_property(row)))

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows = [
        value
        for reports in terminalreporter.stats.values()
        for each in reports
        if getattr(each, "when", None) == "call"
        for name, value in each.user_properties
        if name == PROPERTY
    ]
    if rows:
        terminalreporter.write_sep("=", "what the faults cost")
        for line in table(rows):
            terminalreporter.write_line(line)
