"""What the demo agent knows how to do: read numbers and tables, and count words.

Pure functions over untrusted text. They take time in proportion to it, and raise
:class:`UnreadableInput` rather than guess.
"""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

MAX_COLUMNS: Final = 50
MAX_CELL_CHARACTERS: Final = 40
"""How much of a cell is shown in a message or a column's name."""
WORDS_PER_MINUTE: Final = 230
"""Silent reading of English non-fiction: 238 on average in the meta-study of Brysbaert (2019)."""
FREQUENT: Final = 5

_NUMBER: Final = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,4})?", re.ASCII)
_SEPARATORS: Final = re.compile(r"[\s,;|]+")
_WORD: Final = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")
_SENTENCE_END: Final = re.compile(r"[.!?…。！？]+(?:\s|$)|\n{2,}")  # noqa: RUF001  # CJK marks
_DELIMITERS: Final = ("\t", ";", ",", "|")
_COMMON: Final = frozenset(
    """
    a about after all also an and any are as at be because been before being but by can could did
    do does for from had has have he her here his how i if in into is it its just like me more most
    my no not now of on one only or other our out over she so some than that the their them then
    there these they this to too under up us was we were what when where which who will with would
    you your der die das und ist nicht ein eine mit von zu den im auf für
    """.split()  # noqa: SIM905  # a paragraph is read more easily than a list of 90 literals
)
"""Words that say nothing about a text: of English, and a few of German."""


class UnreadableInput(ValueError):
    """The text is not what the tool reads; ``code`` says in what way, the message where."""

    def __init__(self, code: str, why: str) -> None:
        self.code = code
        super().__init__(why)


@dataclass(frozen=True, slots=True)
class Table:
    """Numbers by column, and how many cells were left out because they are none."""

    columns: Mapping[str, tuple[float, ...]]
    rows: int
    skipped: int


def looks_numeric(text: str) -> bool:
    """Whether ``text`` is numbers or a table rather than prose.

    A table: two rows or more, of one width, with a column that is mostly numbers. Numbers: at least
    half of the lines have some, and at least a third of the words are some.
    """
    if _is_table(text):
        return True
    words = [word for word in _SEPARATORS.split(text) if word]
    numbers = sum(1 for word in words if number(word) is not None)
    if numbers == 0 or numbers * 3 < len(words):
        return False
    lines = [line for line in text.splitlines() if line.strip()]
    with_numbers = sum(
        any(number(word) is not None for word in _SEPARATORS.split(line)) for line in lines
    )
    return with_numbers * 2 >= len(lines)


def number(cell: str) -> float | None:
    """A finite number, also with a currency or percent sign; ``None`` for anything else."""
    bare = cell.strip().lstrip("$€£").removesuffix("%")
    if not _NUMBER.fullmatch(bare):
        return None
    value = float(bare)
    return value if math.isfinite(value) else None


def parse_table(text: str, *, skip_invalid: bool = False) -> Table:
    """Plain numbers, or delimited rows with or without a header.

    A column whose cells are mostly text is a label and is left out. A single cell that is no number
    in a column of numbers is an error, unless ``skip_invalid``.
    """
    rows = _rows(text)
    if not rows:
        raise UnreadableInput("empty_input", "There is nothing to read")
    header = _header(rows)
    body = rows[1:] if header else rows
    width = max(map(len, rows))
    if width > MAX_COLUMNS:
        raise UnreadableInput("too_many_columns", f"{width} columns; the limit is {MAX_COLUMNS}")
    columns: dict[str, tuple[float, ...]] = {}
    skipped = 0
    for at in range(width):
        cells = [
            (line, row[at]) for line, row in enumerate(body, 1 + bool(header)) if at < len(row)
        ]
        filled = [(line, cell) for line, cell in cells if cell.strip()]
        values = [number(cell) for _, cell in filled]
        found = tuple(value for value in values if value is not None)
        if len(found) * 2 < len(filled) or not found:
            continue
        if len(found) < len(filled) and not skip_invalid:
            line, cell = next(
                pair for pair, value in zip(filled, values, strict=True) if value is None
            )
            raise UnreadableInput(
                "not_a_number", f"Row {line}: {cell[:MAX_CELL_CHARACTERS]!r} is not a number"
            )
        skipped += len(filled) - len(found)
        name = header[at] if header and at < len(header) else ""
        columns[_unique(name or f"column {at + 1}" if width > 1 else name or "values", columns)] = (
            found
        )
    if not columns:
        raise UnreadableInput("no_numbers", "No column of numbers was found")
    return Table(columns, len(body), skipped)


def table_of(value: Sequence[Any]) -> str:
    """A JSON list of numbers, rows or objects → the text that :func:`parse_table` reads."""
    if value and all(isinstance(row, Mapping) for row in value):
        names = list(dict.fromkeys(str(name) for row in value for name in row))
        lines = [names, *([_cell(row.get(name)) for name in names] for row in value)]
    else:
        lines = [
            [_cell(cell) for cell in row] if isinstance(row, list) else [_cell(row)]
            for row in value
        ]
    return "\n".join("\t".join(line) for line in lines)


def describe(values: Sequence[float]) -> dict[str, float | int | None]:
    """Count, mean, median, min, max and sample standard deviation (``None`` for one value)."""
    try:
        return _describe(values)
    except OverflowError:
        raise UnreadableInput(
            "numbers_too_large", "The numbers are too large to compute with"
        ) from None


def _describe(values: Sequence[float]) -> dict[str, float | int | None]:
    count = len(values)
    ordered = sorted(values)
    mean = math.fsum(value / count for value in values)
    middle = count // 2
    median = ordered[middle] if count % 2 else ordered[middle - 1] / 2 + ordered[middle] / 2
    stdev = None
    if count > 1:
        stdev = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    return {
        "count": count,
        "mean": mean,
        "median": median,
        "min": ordered[0],
        "max": ordered[-1],
        "stdev": stdev,
    }


def text_statistics(text: str) -> dict[str, Any]:
    """Characters, words, sentences, the most frequent terms, and reading time in seconds."""
    words = _WORD.findall(text)
    if not words:
        raise UnreadableInput("no_words", "There are no words in it")
    sentences = [part for part in _SENTENCE_END.split(text) if _WORD.search(part)]
    terms = Counter(word.lower() for word in words if len(word) > 2 and word.lower() not in _COMMON)  # noqa: PLR2004  # shorter ones say little
    return {
        "characters": len(text),
        "words": len(words),
        "sentences": len(sentences),
        "words_per_sentence": round(len(words) / max(1, len(sentences)), 1),
        "frequent": [
            {"term": term[:MAX_CELL_CHARACTERS], "count": count}
            for term, count in terms.most_common(FREQUENT)
        ],
        "reading_seconds": round(len(words) * 60 / WORDS_PER_MINUTE, 1),
    }


def _rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.strip()]
    delimiter = next(
        (each for each in _DELIMITERS if lines and all(each in line for line in lines)), None
    )
    if delimiter is None or (len(lines) == 1 and _SEPARATORS.search(text)):
        return [[word] for word in _SEPARATORS.split(text) if word]
    try:
        return [row for row in csv.reader(lines, delimiter=delimiter, skipinitialspace=True) if row]
    except csv.Error as error:
        raise UnreadableInput("bad_csv", str(error)) from None


def _is_table(text: str) -> bool:
    try:
        rows = _rows(text)
    except UnreadableInput:
        return False
    widths = {len(row) for row in rows}
    if len(rows) < 2 or len(widths) != 1 or widths == {1}:  # noqa: PLR2004  # a header and a row
        return False
    return any(
        sum(number(row[at]) is not None for row in rows[1:]) * 2 >= len(rows[1:])
        for at in range(len(rows[0]))
    )


def _header(rows: list[list[str]]) -> list[str] | None:
    first, rest = rows[0], rows[1:]
    if not rest or any(number(cell) is not None for cell in first):
        return None
    if len(first) == 1 and len(rest) == 1:
        return None
    return [cell.strip()[:MAX_CELL_CHARACTERS] for cell in first]


def _unique(name: str, taken: Mapping[str, object]) -> str:
    candidate, at = name, 2
    while candidate in taken:
        candidate, at = f"{name} ({at})", at + 1
    return candidate


def _cell(value: Any) -> str:
    text = "" if value is None else str(value)
    return re.sub(r"[\t\r\n]", " ", text)
