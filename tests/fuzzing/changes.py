"""Bytes that are nearly right, as strategies of hypothesis: what was valid, changed in a few places."""

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from tests.fuzzing.doors import CANARY, Door

NUMBERS = [n.to_bytes(size, order, signed=n < 0) for size in (1, 2, 4, 8) for order in ("little", "big")
           for n in (0, 1, -1, 127, (1 << 8 * size - 1) - 1, -(1 << 8 * size - 1))]  # fmt: skip
"""What sizes and offsets are overwritten by: nothing, little, and as much as there can be."""
EDGE = 400
"""Structure stands in the first and last so many bytes."""


@st.composite
def changed(draw: st.DrawFn, door: Door, seeds: Sequence[bytes]) -> bytes:
    """A seed with flipped bits, numbers of another size, parts of others, or without its end."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        most = max(len(data) - 1, 0)
        near = st.integers(0, min(EDGE, most)) | st.integers(max(most - EDGE, 0), most) | st.integers(0, most)
        at, change = draw(near), draw(st.integers(0, 6))
        if change == 0 and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif change == 1:
            number = draw(st.sampled_from(NUMBERS))
            data[at : at + len(number)] = number
        elif change == 2:
            del data[at:]
        elif change == 3:
            del data[at : at + draw(st.integers(1, 64))]
        elif change == 4:
            data[at:at] = data[at : at + draw(st.integers(1, 64))]
        elif change == 5:
            other, start = draw(st.sampled_from(seeds)), draw(st.integers(0, EDGE))
            data[at : at + draw(st.integers(0, 64))] = other[start : start + draw(st.integers(1, 400))]
        else:
            data[at:at] = draw(st.binary(min_size=1, max_size=40))
    return door.mended(bytes(data)) if draw(st.booleans()) else bytes(data)


SIZES = st.sampled_from([0, 1, 2, 4, 8, -1, 2**31, 2**40, 2**47, 2**62, 2**64, 1.0, True, None, "4"])
FIELDS = st.fixed_dictionaries(
    {"dtype": st.sampled_from(["F32", "F16", "BF16", "I64", "BOOL", "U8", "F8_E4M3", "f32", "", None, 4, ["F32"]]),
     "shape": st.lists(SIZES, max_size=10), "data_offsets": st.lists(SIZES, max_size=3)},
    optional={"stride": st.just(1)},
)  # fmt: skip
HEADERS = st.dictionaries(st.sampled_from(["a", "b", "__metadata__", "", "\ud800", "é"]), FIELDS | SIZES, max_size=4)


@st.composite
def safetensors(draw: st.DrawFn) -> bytes:
    """Headers of the right form that may say anything."""
    header: Any = draw(HEADERS)
    text = json.dumps(header).encode() + b" " * draw(st.integers(0, 9))
    length = draw(st.just(len(text)) | st.sampled_from([0, 1, len(text) + 1, 2**31, 2**63, 2**64 - 1]))
    return length.to_bytes(8, "little") + text + bytes(draw(st.integers(0, 40)))


def _named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


NAMES = [
    _named(*name.rsplit(".", 1))
    for name in (
        "collections.OrderedDict", "collections.Counter", "builtins.bytearray", "builtins.set", "builtins.complex",
        "_codecs.encode", "torch.Size", "torch.Tensor", "torch.FloatTensor", "torch.FloatStorage", "torch.float32",
        "torch.storage.UntypedStorage", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_qtensor",
        "torch._utils._rebuild_sparse_tensor", "torch._utils._rebuild_meta_tensor_no_storage", "torch.device",
        "torch.nn.parameter.Parameter", "numpy._core.multiarray._reconstruct", "numpy.dtype", "os.system",
        "builtins.eval", "posix.system", "torch._tensor._rebuild_from_type_v2", "torch.load", "torch.jit.load",
    )
]  # fmt: skip
RUN = f"__import__('pathlib').Path({str(CANARY)!r}).touch()".encode()
SHELL = f"touch {CANARY}".encode()
PIECES = [
    *NAMES, *(b"X" + len(text).to_bytes(4, "little") + text for text in (b"a", b"storage", b"0", b"cpu", RUN, SHELL)),
    *(b"\x8a\x08" + n.to_bytes(8, "little") for n in (0, 1, 4, 1 << 31, 1 << 40, (1 << 62) + 1)),
    *(b"K" + bytes([n]) for n in (0, 1, 4, 255)), b"J\xff\xff\xff\x7f", b"J\xff\xff\xff\xff", b"G" + bytes(8),
    b"N", b"\x88", b")", b"]", b"}", b"(", b"\x85", b"\x86", b"\x87", b"t", b"a", b"e", b"s", b"u", b"R", b"\x81",
    b"b", b"Q", b"q\x00", b"q\x01", b"h\x00", b"h\x01", b"r\xff\xff\xff\x7f", b"0", b"2", b"c", b"\x8c\x01a", b"\x93",
]  # fmt: skip
"""Instructions, with what they take."""
CALLS = st.tuples(st.sampled_from(NAMES), st.sampled_from(PIECES), st.sampled_from([b"\x85R", b"\x85\x81", b"tR"]))
PICKLES = st.lists(st.sampled_from(PIECES) | CALLS.map(b"".join), min_size=1, max_size=25).map(
    lambda pieces: b"\x80\x02" + b"".join(pieces) + b"."
)
"""Pickles that call anything with anything."""
