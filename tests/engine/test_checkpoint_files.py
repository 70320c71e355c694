"""Files that are damaged, that are no checkpoints, or that mean harm: a CheckpointError, and nothing in them is run."""

import copy
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from workers.engine.checkpoint_files import LARGEST_HEADER, CheckpointError, load
from workers.engine.checkpoints import read

TENSORS = {"a.weight": torch.linspace(0, 1, 1000), "b": torch.arange(6).view(2, 3), "c": torch.ones(2).half()}


class Harm:
    """Its pickle makes a file when it is loaded."""

    def __init__(self, path: Path, function: Callable[[str], Any]) -> None:
        self.path, self.function = path, function

    def __reduce__(self) -> tuple[Any, ...]:
        touch = f"__import__('pathlib').Path({str(self.path)!r}).touch()"
        return self.function, (f"touch {self.path}" if self.function is os.system else touch,)


def plain(value: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(value, protocol=2))


def newer(value: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(value))


def zipped(value: Any, path: Path) -> None:
    torch.save(value, path)


def legacy(value: Any, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def safetensors(value: Any, path: Path) -> None:
    path.write_bytes(save(value))


@pytest.mark.parametrize("write", [plain, newer, zipped, legacy])
@pytest.mark.parametrize("function", [os.system, eval], ids=["system", "eval"])
def test_a_malicious_pickle_is_refused_and_runs_nothing(
    tmp_path: Path, write: Callable[[Any, Path], None], function: Callable[[str], Any]
) -> None:
    written = tmp_path / "written"
    write({"state_dict": {"a": Harm(written, function)}}, tmp_path / "w.pt")
    message = "not a checkpoint" if write is newer else r"the pickle names (posix\.system|eval), which could run code"
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path / "w.pt")
    assert not written.exists()
    with suppress(RuntimeError):  # of a plain pickle, once it has been run
        torch.load(tmp_path / "w.pt", weights_only=False)
    assert written.exists(), "the case needs a pickle that would do harm"


def test_a_pickled_module_is_refused_with_how_to_convert_it(tmp_path: Path) -> None:
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"names torch\.nn\.modules\.linear\.Linear.*its tensors alone"):
        read(tmp_path / "w.pt")


def rewritten(path: Path, compression: int, change: Callable[[str, bytes], bytes] = lambda _, data: data) -> None:
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in records.items():
            archive.writestr(name, change(name, data))


def test_a_compressed_archive_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1 << 20)}, tmp_path / "w.pt")
    rewritten(tmp_path / "w.pt", zipfile.ZIP_STORED)
    assert read(tmp_path / "w.pt").weights["a"].shape == (1 << 20,)
    rewritten(tmp_path / "w.pt", zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="is compressed"):
        read(tmp_path / "w.pt")


def test_an_archive_whose_records_share_bytes_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("w/data/0", bytes(10_000))
        archive.filelist.append(copy.copy(archive.filelist[0]))
    with pytest.raises(CheckpointError, match="overlap"):
        read(tmp_path / "w.pt")


def test_a_pickle_too_long_for_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1), "b": "x" * LARGEST_HEADER}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="not only tensors"):
        read(tmp_path / "w.pt")


def test_a_tensor_longer_than_its_record_does_not_reach_past_the_file(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, tmp_path / "w.pt")
    length = b"M" + (1000).to_bytes(2, "little")

    def longer(name: str, data: bytes) -> bytes:
        assert not name.endswith("data.pkl") or data.count(length) == 2
        return data.replace(length, b"M\xff\xff") if name.endswith("data.pkl") else data

    rewritten(tmp_path / "w.pt", zipfile.ZIP_STORED, longer)
    with pytest.raises(CheckpointError):
        read(tmp_path / "w.pt")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("", "pipe", "absent"):
        with pytest.raises(CheckpointError, match="is not a file"):
            read(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [b"", b"P", b"PK", b"PK\x03\x04", b"\x80", b"\x80\x02", b"{}", b"hello, world", b"\x7fELF" + bytes(60)],
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        read(tmp_path / "w")


@pytest.mark.parametrize("value", [1, "weights", [torch.ones(1)], torch.ones(1), {}, {1: torch.ones(1)}, {"a": {}},
                                   {"config": {"architecture": "x"}, "model": {}, "ema": torch.ones(2)}])  # fmt: skip
def test_what_holds_no_weights_by_name_is_refused(tmp_path: Path, value: Any) -> None:
    torch.save(value, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"expected|no weights"):
        read(tmp_path / "w.pt")


def test_an_error_is_short_however_long_the_names(tmp_path: Path) -> None:
    torch.save({"x" * 1_000_000: 1}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError) as error:
        read(tmp_path / "w.pt")
    assert 1_000 < len(str(error.value)) < 20_000


def header(**entries: Any) -> dict[str, Any]:
    """A correct header for 8 bytes: a holds the first four, b the others."""
    first = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    return {"a": first | entries.pop("a", {}), "b": first | {"data_offsets": [4, 8]} | entries.pop("b", {}), **entries}


def raw(value: Any, data: bytes = bytes(8), length: int | None = None) -> bytes:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


DAMAGED = {
    "header past the end": (raw(header(), length=10_000), "header of 10000 bytes in a file of"),
    "huge header": (raw(b"{" + b" " * (LARGEST_HEADER + 1)), f"at most {LARGEST_HEADER}"),
    "not JSON": (raw(b"{'a': 1}"), "not JSON"),
    "not UTF-8": (raw(b'{"\xff": 1}'), "not JSON"),
    "deep": (raw(b'{"a":' * 100_000), "not JSON"),
    "twice": (raw(b'{"a": {}, "a": {}}'), "twice"),
    "gap": (raw(header(b={"data_offsets": [5, 9]}), bytes(9)), "b begins at byte 5, expected 4"),
    "overlap": (raw(header(b={"data_offsets": [2, 6]}), bytes(6)), "b begins at byte 2, expected 4"),
    "too little data": (raw(header(), bytes(7)), "tensors of 8 bytes, in a file with 7"),
    "too much data": (raw(header(), bytes(9)), "tensors of 8 bytes, in a file with 9"),
    "dtype": (raw(header(a={"dtype": "F8_E4M3"})), "'F8_E4M3'; allowed: F64, F32"),
    "dtype of no name": (raw(header(a={"dtype": ["F32"]})), "allowed"),
    "shape": (raw(header(a={"shape": [2]})), "does not hold"),
    "negative shape": (raw(header(a={"shape": [-1, -1]})), "has shape"),
    "shape of true": (raw(header(a={"shape": [True]})), "has shape"),
    "shape of floats": (raw(header(a={"shape": [1.0]})), "has shape"),
    "endless shape": (raw(header(a={"shape": [1] * 9})), "has shape"),
    "overflowing shape": (raw(header(a={"shape": [0, 1 << 40, 1 << 40], "data_offsets": [0, 0]})), "has shape"),
    "backward offsets": (raw(header(a={"data_offsets": [4, 0]})), "does not hold"),
    "one offset": (raw(header(a={"data_offsets": [4]})), "has shape"),
    "another field": (raw(header(a={"stride": [1]})), "nothing else"),
    "no entry": (raw(header(c=[1])), "c needs dtype"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_a_safetensors_file_with_a_wrong_header_is_refused(tmp_path: Path, case: str) -> None:
    content, message = DAMAGED[case]
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        read(tmp_path / "w")
    assert message in str(error.value)


def test_the_header_that_those_cases_damage_is_right(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(raw(header(__metadata__={"format": "pt"}), bytes(4) + b"\0\0\x80?"))
    container, tensors = load(tmp_path / "w")
    assert (container, {name: t.tolist() for name, t in tensors.items()}) == ("safetensors", {"a": [0], "b": [1]})


@pytest.mark.parametrize("write", [safetensors, zipped, legacy])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, write: Callable[[Any, Path], None]) -> None:
    write(TENSORS, tmp_path / "w")
    whole = (tmp_path / "w").read_bytes()
    for end in (*range(0, len(whole), len(whole) // 40), len(whole) - 1):
        (tmp_path / "cut").write_bytes(whole[:end])
        with pytest.raises(CheckpointError):
            read(tmp_path / "cut")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    paths = [tmp_path_factory.mktemp("valid") / write.__name__ for write in (safetensors, zipped, legacy)]
    for path, write in zip(paths, (safetensors, zipped, legacy), strict=True):
        write(TENSORS, path)
    return paths


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_file_is_a_checkpoint_error_or_still_a_checkpoint(files: list[Path], data: st.DataObject) -> None:
    path = files[data.draw(st.integers(0, 2))]
    content = bytearray(path.read_bytes())
    # Most bytes are weights: aim at the first and last, where the structure is.
    place = st.one_of(st.integers(0, 1200), st.integers(-1200, -1), st.integers(0, len(content) - 1))
    for where, change in data.draw(st.lists(st.tuples(place, st.binary(max_size=4)), min_size=1, max_size=6)):
        where %= len(content)
        content[where : where + data.draw(st.integers(0, 4))] = change
    damaged = path.with_suffix(".damaged")
    damaged.write_bytes(content)
    with suppress(CheckpointError):
        assert all(t.isfinite().all() for t in read(damaged).weights.values())
