from __future__ import annotations

import contextlib
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents_sdk import analysis
from agents_sdk.analysis import UnreadableInput, parse_table

CSV = "month,revenue,costs\nJan,100,80\nFeb,120,90\nMar,95,70"


@pytest.mark.parametrize(
    "text",
    ["1 2 3", "7", "1,5;2", CSV, "name,city,age\nAnn,Paris,31\nBob,Rome,40", "a;1\nb;2", "1\n2\n3"],
)
def test_data_looks_numeric(text: str) -> None:
    assert analysis.looks_numeric(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Revenue was 12 in May.",
        "One, two, three.\nFour, five, six.",
        "Chapter 1\nIt was a dark and stormy night.\nSo it was.",
        "\x00",
    ],
)
def test_prose_does_not(text: str) -> None:
    assert not analysis.looks_numeric(text)


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("1", 1.0),
        ("-2.5", -2.5),
        ("+.5", 0.5),
        ("1e3", 1000.0),
        (" 12% ", 12.0),
        ("$3", 3.0),
        ("nan", None),
        ("inf", None),
        ("1e999", None),
        ("1_000", None),
        ("٣", None),
        ("", None),
        ("x", None),
    ],
)
def test_what_a_number_is(cell: str, value: float | None) -> None:
    assert analysis.number(cell) == value


def test_columns_of_text_are_labels() -> None:
    table = parse_table(CSV)
    assert table.columns == {"revenue": (100, 120, 95), "costs": (80, 90, 70)}
    assert (table.rows, table.skipped) == (3, 0)


def test_plain_numbers_are_one_column() -> None:
    assert parse_table("1, 2;3\n4").columns == {"values": (1, 2, 3, 4)}


def test_rows_without_a_header_get_names() -> None:
    assert parse_table("1,2\n3,4").columns == {"column 1": (1, 3), "column 2": (2, 4)}


def test_quoted_cells_and_equal_names_are_read() -> None:
    table = parse_table('n,n,"a, b"\n1,2,"3"\n4,5,"6"')
    assert table.columns == {"n": (1, 4), "n (2)": (2, 5), "a, b": (3, 6)}


def test_a_cell_that_is_no_number_is_named_or_left_out() -> None:
    with pytest.raises(UnreadableInput, match="Row 3: 'x' is not a number") as refused:
        parse_table("1 2 x 4")
    assert refused.value.code == "not_a_number"
    table = parse_table("1 2 x 4", skip_invalid=True)
    assert (table.columns, table.skipped) == ({"values": (1, 2, 4)}, 1)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "empty_input"),
        (" \n\t", "empty_input"),
        ("a,b\nc,d", "no_numbers"),
        (",".join("1" * 51) + "\n" + ",".join("2" * 51), "too_many_columns"),
    ],
)
def test_what_is_not_a_table_is_refused(text: str, code: str) -> None:
    with pytest.raises(UnreadableInput) as refused:
        parse_table(text)
    assert refused.value.code == code


def test_json_becomes_a_table() -> None:
    assert parse_table(analysis.table_of([1, 2])).columns == {"values": (1, 2)}
    rows = [{"a": 1, "b": "x\ty"}, {"a": 2}]
    assert parse_table(analysis.table_of(rows)).columns == {"a": (1, 2)}
    assert parse_table(analysis.table_of([[1, 2], [3, 4]])).columns["column 2"] == (2, 4)


def test_one_value_has_no_deviation() -> None:
    assert analysis.describe([5.0])["stdev"] is None


def test_numbers_too_large_to_square_are_refused() -> None:
    with pytest.raises(UnreadableInput, match="too large"):
        analysis.describe([1e308, -1e308])


@given(st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=50))
def test_the_figures_are_those_of_the_standard_library(values: list[float]) -> None:
    found = analysis.describe(values)
    assert found["count"] == len(values)
    assert (found["min"], found["max"]) == (min(values), max(values))
    for name, expected in (
        ("mean", statistics.fmean(values)),
        ("median", statistics.median(values)),
        ("stdev", statistics.stdev(values)),
    ):
        figure = found[name]
        assert figure is not None
        assert math.isclose(figure, expected, rel_tol=1e-6, abs_tol=1e-3)


def test_prose_is_counted() -> None:
    found = analysis.text_statistics("The dog barks. The dog's tail wags!\n\nOh, a dog")
    assert (found["words"], found["sentences"]) == (10, 3)
    assert found["frequent"][0] == {"term": "dog", "count": 2}
    assert found["reading_seconds"] == round(10 * 60 / 230, 1)


@pytest.mark.parametrize("text", ["", "123 456", "😀😀", "…!?"])
def test_text_without_words_is_refused(text: str) -> None:
    with pytest.raises(UnreadableInput, match="no words"):
        analysis.text_statistics(text)


@given(st.text(max_size=200))
def test_hostile_text_is_read_or_refused(text: str) -> None:
    for read in (parse_table, analysis.text_statistics):
        with contextlib.suppress(UnreadableInput):
            read(text)
    analysis.looks_numeric(text)
