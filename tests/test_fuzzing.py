"""The doors of images and checkpoints, under bytes that mean harm: refused, or right, in bounded time and memory.

Always the same few hundred here; `make fuzz` has as many as there is time for.
"""

import io
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.fuzzing.__main__ import by_hypothesis
from tests.fuzzing.child import ROOT, Child, Fault
from tests.fuzzing.doors import with_pickle
from tests.service.test_images import declared, png, with_header

EXAMPLES = {"image": 300, "checkpoint": 150, "pickle": 300}


@pytest.mark.parametrize("door", EXAMPLES)
def test_no_bytes_crash_a_door_or_make_it_hang_or_fill_the_memory(door: str) -> None:
    refused, accepted = by_hypothesis(door, EXAMPLES[door], seed=True)
    assert min(refused, accepted) > 0, "neither all right nor all wrong"


@pytest.fixture(scope="module")
def children() -> Iterator[Callable[[str], Child]]:
    started: dict[str, Child] = {}

    def child(door: str) -> Child:
        started[door] = started.get(door) or Child(door)
        return started[door]

    yield child
    for each in started.values():
        each.close()


def zipped(**records: bytes) -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in records.items():
            archive.writestr(f"archive/{name.replace('_', '.', 1)}", data)
    return file.getvalue()


def calling(module: str, name: str, argument: bytes) -> bytes:
    return with_pickle(b"\x80\x02" + f"c{module}\n{name}\n".encode() + argument + b"\x85R.")


def text(said: str) -> bytes:
    return b"X" + struct.pack("<I", len(said.encode())) + said.encode()


def followed(*parts: bytes) -> bytes:
    """A list of these."""
    return with_pickle(b"\x80\x02](" + b"".join(parts) + b"e.")


def storage(kind: bytes = text("storage"), key: bytes = text("0"), place: bytes = text("cpu")) -> bytes:
    return b"(" + kind + b"ctorch\nFloatStorage\n" + key + place + b"K\x28tQ"


def changed(old: bytes, new: bytes) -> bytes:
    """A file of torch.save before archives, with another version, keys, or part of a storage."""
    torch.save({"a": torch.ones(4)}, file := io.BytesIO(), _use_new_zipfile_serialization=False)
    data = file.getvalue()
    assert data.count(old) == 1
    return data.replace(old, new)


def legacy(elements: int) -> bytes:
    """Of torch.save before archives, with a storage that says to have so many elements."""
    return changed(b"cpuq\x06K\x04N", b"cpuq\x06\x8a\x08" + elements.to_bytes(8, "little") + b"N")


LARGE = b"\x8a\x08" + (1 << 40).to_bytes(8, "little")
MANY = b"}q\x01(" + b"".join(b"J" + n.to_bytes(4, "little") + b"N" for n in range(50_000)) + b"u"
COPIES = MANY + b"ccollections\nOrderedDict\nq\x00](" + b"h\x00h\x01\x85R" * 5000 + b"e."
STATES = MANY + b"ccollections\nOrderedDict\nq\x00](" + b"h\x00)Rh\x01b" * 5000 + b"e."
# Multiples of 2^61 - 1, which Python hashes to the same number.
SAME = b"}(" + b"".join(b"\x8a\x0a" + (n * (2**61 - 1)).to_bytes(10, "little") + b"N" for n in range(1, 20_000)) + b"u."
# Tuples, or lists, of which each holds the one before twice: to hash, compare or print the last has no end.
TWICE = b"K\x01q\x09" + b"h\x09\x86q\x09" * 60
LISTS = b"]q\x09" + b"](h\x09h\x09eq\x09" * 60
DEEP = b"h\x09"
CALLS = b"h\x00h\x01R" * 3000
SPARSE = b"ctorch._utils\n_rebuild_sparse_tensor\n"
ORDERED = b"ccollections\nOrderedDict\n"
CHARACTERS = b"}q\x01(" + text("".join(map(chr, range(256, 50_256)))) + b"Nu"
ONES = b"K\x01" * 50_000
BOMBS = {
    "a PNG of 2,000,000,000 x 2": ("image", png(2_000_000_000, 2, 8, 2, bytes(1000))),
    "a PNG of 30,000 x 30,000 that inflates": ("image", png(30_000, 30_000, 8, 0, bytes(50_000_000))),
    "an array of 3 x 10^9 x 10^9": ("image", with_header(declared("(3, 1000000000, 1000000000)"))),
    "a header of brackets": ("image", with_header("{'descr': " + "(" * 900 + "\n")),
    "a deflated archive": ("checkpoint", zipped(data_pkl=bytes(200_000_000), version=b"3\n")),
    "a tensor of 2^47 bytes": ("checkpoint", b"\x47\0\0\0\0\0\0\0" + b'{"a":{"dtype":"U8","shape":[140737488355328],'
                               b'"data_offsets":[0,140737488355328]}}   '),
    "a call of bytearray": ("checkpoint", calling("builtins", "bytearray", LARGE)),
    "a call of Tensor": ("checkpoint", calling("torch", "Tensor", LARGE)),
    "a call of a storage": ("checkpoint", calling("torch.storage", "UntypedStorage", LARGE)),
    "25,000 bytes that copy 50,000 entries 5,000 times": ("checkpoint", with_pickle(b"\x80\x02" + COPIES)),
    "as many states": ("checkpoint", with_pickle(b"\x80\x02" + STATES)),
    "20,000 keys of one hash": ("checkpoint", with_pickle(b"\x80\x02" + SAME)),
    "an old file with a storage of 2^40": ("checkpoint", legacy(1 << 40)),
    "a storage by an endless key": ("checkpoint", followed(TWICE, storage(key=DEEP))),
    "of an endless kind": ("checkpoint", followed(TWICE, storage(kind=DEEP))),
    "at an endless place": ("checkpoint", followed(TWICE, storage(place=DEEP))),
    "an endless layout": ("checkpoint", followed(TWICE, b"ctorch.serialization\n_get_layout\n", DEEP, b"\x85R")),
    "a layout of lists": ("checkpoint", followed(LISTS, SPARSE, DEEP, DEEP, b"\x86R")),
    "attributes by endless names": ("checkpoint", followed(TWICE, ORDERED, b")R](", DEEP, b"K\x01\x86eb")),
    "an old file of an endless version": ("checkpoint", changed(b"M\xe9\x03.", TWICE + b".")),
    "an old file with an endless part": ("checkpoint", changed(b"K\x04N", b"K\x04(" + TWICE + b"K\x00K\x04t")),
    "an old file with endless keys": ("checkpoint", changed(b"\x80\x02]q", b"\x80\x02](" + TWICE + b"e.\x80\x02]q")),
    "50,000 sizes 3,000 times": ("checkpoint", followed(b"((", ONES, b"ttq\x01ctorch\nSize\nq\x00", CALLS)),
    "a dictionary as arguments": ("checkpoint", followed(CHARACTERS, b"ccollections\nCounter\nq\x00", CALLS)),
    "50,000 dimensions 3,000 times": ("checkpoint", followed(b"(", ONES, b"tq\x01ctorch._utils\n_rebuild_tensor\nq\x00",
                                      storage(), b"q\x02", b"h\x00(h\x02K\x00h\x01h\x01tR" * 3000)),
}  # fmt: skip


@pytest.mark.parametrize("case", BOMBS)
def test_a_bomb_is_refused_before_it_goes_off(children: Callable[[str], Child], case: str) -> None:
    door, data = BOMBS[case]
    assert not children(door).knock(data)


@pytest.mark.parametrize(("data", "told"), {b"crash": "it ended", b"fill": "MB for 4 bytes", b"slow": "seconds for 4",
                                            b"raise": "KeyError"}.items())  # fmt: skip
def test_what_no_door_may_do_is_seen(children: Callable[[str], Child], data: bytes, told: str) -> None:
    with pytest.raises(Fault, match=told):
        children("planted").knock(data)
    assert children("planted").knock(b"seed")


PLAIN = {
    "numbers and texts": {
        "epoch": 3,
        "accuracy": 0.5,
        "note": "é",
        "raw": b"\x00\xff",
        "none": None,
        "many": [1, (2,)],
    },
    "a schedule": torch.optim.lr_scheduler.MultiStepLR(torch.optim.SGD([torch.ones(1)], 0.1), [2, 4]).state_dict(),
    "an optimiser": torch.optim.Adam([torch.ones(3)], 0.1).state_dict(),
    "sizes, types and places": [torch.Size([1, 2]), torch.float16, torch.device("cpu"), complex(1, 2)],
}


@pytest.mark.parametrize("case", PLAIN)
@pytest.mark.parametrize("archive", [True, False])
def test_what_training_saves_beside_weights_is_still_read(
    children: Callable[[str], Child], case: str, archive: bool
) -> None:
    saved = {"state_dict": {"a": torch.ones(2)}, "beside": PLAIN[case]}
    torch.save(saved, file := io.BytesIO(), _use_new_zipfile_serialization=archive)
    assert children("checkpoint").knock(file.getvalue())


@pytest.mark.slow
def test_the_fuzzer_follows_the_decoders_for_as_long_as_it_is_told(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "tests.fuzzing", "--seconds", "6", "--folder", str(tmp_path)],
                          capture_output=True, text=True, cwd=ROOT)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("stat::number_of_executed_units") == 3
