"""Manifests: any bytes are entries or errors by entry, whatever the pieces that they come in."""

import csv
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bulk.manifests import LONGEST_LINE, Line, lines

NAMED = st.one_of(
    st.fixed_dictionaries({"dataset": st.just("d"), "index": st.integers(0, 2**31 - 1)}),
    st.fixed_dictionaries({"image": st.just("sha256:" + "a" * 64)}),
    st.fixed_dictionaries({"key": st.just("imports/a b.png")}, optional={"id": st.text("ab,\"' ", min_size=1)}),
)


def read(data: bytes, piece: int = 1 << 20) -> list[Line]:
    return list(lines(iter([data[i : i + piece] for i in range(0, len(data), piece)])))


@given(st.binary(max_size=400), st.integers(1, 50))
def test_any_bytes_are_entries_or_errors(data: bytes, piece: int) -> None:
    found = read(data, piece)
    assert found == read(data)
    numbers = [line.entry for line in found]
    assert numbers == sorted(set(numbers))
    assert all(line.errors or line.named for line in found)


@given(st.lists(NAMED, max_size=20), st.sampled_from(["\n", "\r\n", "\n\n"]), st.integers(1, 99))
def test_lines_of_json_are_entries(named: list[dict[str, Any]], end: str, piece: int) -> None:
    text = "".join(json.dumps(each) + end for each in named)
    lines_of_each = end.count("\n")
    assert read(text.encode(), piece) == [Line(1 + n * lines_of_each, each) for n, each in enumerate(named)]


@given(st.lists(NAMED, min_size=1, max_size=20))
def test_rows_of_csv_are_the_same_entries(named: list[dict[str, Any]]) -> None:
    file = io.StringIO()
    writer = csv.DictWriter(file, ("dataset", "index", "image", "key", "id"))
    writer.writeheader()
    writer.writerows(named)
    assert read(file.getvalue().encode()) == [Line(n, each) for n, each in enumerate(named, 2)]


def test_a_line_without_an_end_takes_no_more_memory_than_a_line_may() -> None:
    def endless() -> Any:
        yield b'{"key": "'
        for _ in range(1000):
            yield b"x" * 100_000
        yield b'"}\n{"key": "imports/a.png"}\n'

    first, second = lines(endless())
    assert first.errors == (("line", f"is longer than {LONGEST_LINE:,} bytes"),)
    assert second == Line(2, {"key": "imports/a.png"})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dataset,color\nd,1\n", "names ['color']"),
        ("dataset,dataset\nd,1\n", "names a column twice"),
        ('key\n"imports/a.png\n', "is no CSV"),
        ("dataset,index\nd\n", "has 1 cells and the header 2"),
        ("dataset,index\nd,-1\n", "is no index"),
        ("dataset,index\nd,\n", "names dataset; allowed"),
    ],
)
def test_what_is_wrong_with_csv_is_told(text: str, says: str) -> None:
    (line,) = read(text.encode())
    assert says in line.errors[0][1]


@pytest.mark.parametrize(
    ("named", "field", "says"),
    [
        ({"dataset": "d", "index": 1, "image": "sha256:" + "a" * 64}, "line", "names dataset, index, image"),
        ({"index": 1}, "line", "names index"),
        ({"dataset": "d", "index": True}, "index", "is no index"),
        ({"dataset": "../d", "index": 1}, "dataset", "is no name"),
        ({"image": "SHA256:" + "a" * 64}, "image", "is no image's id"),
        ({"key": "imports/a\nb"}, "key", "is no key"),
        ({"key": "imports"}, "key", "begin with imports/"),
        ({"key": "imports/a", "label": "x" * 201}, "label", "200 characters"),
        ({"key": "imports/a", "label": "\0"}, "label", "200 characters"),
        ({"key": "imports/a", "id": "\ud800"}, "id", "printable"),
        ({"key": "imports/a", "step": 1}, "step", "is unknown"),
    ],
)
def test_what_is_wrong_with_an_entry_is_told_by_field(named: dict[str, Any], field: str, says: str) -> None:
    (line,) = read(json.dumps(named).encode())
    assert [name for name, _ in line.errors] == [field]
    assert says in line.errors[0][1]


def test_json_that_is_too_deep_is_an_error_of_its_line() -> None:
    first, second = read(b"[" * 60_000 + b"\n" + b'{"key": "imports/a.png"}')
    assert (first.errors[0][0], second.errors) == ("line", ())
