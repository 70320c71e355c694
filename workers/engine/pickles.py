"""What a pickle of torch.save would do, found out before torch.load does it.

Its own unpickler calls nothing that runs code, but some of what it calls makes as much memory as a number in the file
says (`bytearray`), or copies what is there as often as it is named. Here the same instructions are followed without
making anything: only what tensors and plain values need may be called, and only with what was written for that call.
"""

import pickletools
import re
from collections.abc import Collection, Sequence
from io import BytesIO
from typing import Any, NamedTuple

LARGEST_INTEGER = 1 << 60
"""Larger ones may have the same hash by the million, and a dictionary of those takes hours."""
REBUILT = {
    *(f"torch._utils._rebuild_{name}" for name in ("tensor", "tensor_v2", "parameter", "sparse_tensor",
                                                   "meta_tensor_no_storage")),
    "torch.serialization._get_layout",
}  # fmt: skip
"""Calls that view what is there."""
MAPPINGS = {"collections.OrderedDict", "collections.Counter"}
VALUES = {"builtins.complex", "_codecs.encode", "torch.Size", "torch.device"}
"""Calls that copy what they are given."""
CALLED = REBUILT | MAPPINGS | VALUES
NAMED = re.compile(
    r"torch\.(\w+Storage|storage\.(Typed|Untyped)Storage|u?int\d+|b?float\w*|complex\w*|bool|q\w+|bits\w+)"
)
"""What may be named, and not called."""
DICT, OTHER = object(), object()
"""A dictionary, and whatever else there is, on the stack of a reader."""
PUSHED = {"NONE": None, "NEWFALSE": False, "NEWTRUE": True, "EMPTY_TUPLE": (), "EMPTY_DICT": DICT, "EMPTY_LIST": OTHER}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
READ = {"BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "LONG1"}


class Refused(ValueError):  # noqa: N818 - what was done
    """The pickle does more than to describe tensors and plain values."""


class Unknown(Refused):
    """It names something else than those need."""


class Name(NamedTuple):
    """Something that is imported."""

    name: str


class Again(NamedTuple):
    """Something that stands elsewhere too."""

    value: Any


class _Reader:
    """The stack of an unpickler: numbers, texts, names and tuples as they are."""

    def __init__(self, harmless: Collection[str]) -> None:
        self.harmless = harmless
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[Any, int] = {}

    def read(self, pickle: BytesIO) -> None:
        for opcode, argument, _ in pickletools.genops(pickle):
            self._step(opcode.name, argument)

    def _step(self, code: str, argument: Any) -> None:
        stack = self.stack
        if code in READ:
            if isinstance(argument, int) and abs(argument) >= LARGEST_INTEGER:
                raise Refused("an integer of more than 60 bits")
            stack.append(argument)
        elif code in PUSHED:
            stack.append(PUSHED[code])
        elif code in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = bare(stack[-1])
        elif code in ("BINGET", "LONG_BINGET"):
            stack.append(Again(self.memo[argument]))
        elif code == "GLOBAL":
            stack.append(Name(self._named(re.sub("^__builtin__ ", "builtins ", argument).replace(" ", ".", 1))))
        elif code in TUPLES:
            stack[-TUPLES[code] :] = [tuple(stack[-TUPLES[code] :])]
        elif code == "MARK":
            self.below.append(stack)
            self.stack = []
        elif code in ("TUPLE", "APPENDS", "SETITEMS"):
            self.stack = self.below.pop()
            if code == "TUPLE":
                self.stack.append(tuple(stack))
            elif code == "SETITEMS":
                _check_keys(stack[::2])
        elif code == "APPEND":
            stack.pop()
        elif code == "SETITEM":
            _check_keys(stack[-2:-1])
            del stack[-2:]
        elif code in ("REDUCE", "NEWOBJ"):
            self._call(bare(stack[-2]), stack.pop())
        elif code == "BUILD":
            if isinstance(stack.pop(), Again):
                raise Refused("the same state for several objects")
        elif code == "BINPERSID":
            self._storage(bare(stack.pop()))
        elif code not in ("PROTO", "STOP"):
            raise Refused(f"the instruction {code}, which torch.save does not write")

    def _named(self, name: str) -> str:
        if name not in CALLED and name not in self.harmless and not NAMED.fullmatch(name):
            raise Unknown(name.removeprefix("builtins."))
        return name

    def _call(self, function: Any, arguments: Any) -> None:
        name = function.name if isinstance(function, Name) else "what is no function"
        allowed = name in REBUILT or name in self.harmless
        if name in MAPPINGS:
            allowed = arguments in ((), (DICT,))
        elif name in VALUES:
            allowed = isinstance(arguments, tuple) and all(map(_small, arguments))
        if not allowed:
            raise Refused(f"a call of {name} that tensors and plain values do not need")
        self.stack[-1] = OTHER

    def _storage(self, about: Any) -> None:
        """A storage by its kind, key, place and number of elements."""
        elements = bare(about[4]) if isinstance(about, tuple) and len(about) > 4 else None
        if type(elements) is not int or elements < 0:
            raise Refused("a storage of no size")
        key = bare(about[2])
        self.storages[key] = max(elements, self.storages.get(key, 0))
        self.stack.append(OTHER)


def _check_keys(keys: Sequence[Any]) -> None:
    """Texts and numbers: of others, such as tuples, anybody can find as many as they like with one hash."""
    if not all(isinstance(bare(key), str | bytes | float | int) for key in keys):
        raise Refused("a key that is neither a text nor a number")


def _small(argument: Any) -> bool:
    """Whether copying it costs no more than reading it did, however often it is named."""
    value = bare(argument)
    own = isinstance(value, str | bytes | tuple) and not isinstance(argument, Again)
    return own or value is None or isinstance(value, int | float) or (isinstance(value, str) and len(value) < 100)


def bare(value: Any) -> Any:
    return value.value if isinstance(value, Again) else value


def check(pickle: BytesIO, harmless: Collection[str], most_elements: int) -> None:
    """Read one pickle, and stop behind it. What it names beside tensors and plain values is `harmless`.

    Raises Refused, for storages of more elements in all than `most_elements` too, and whatever a damaged one raises.
    """
    reader = _Reader(harmless)
    reader.read(pickle)
    if sum(reader.storages.values()) > most_elements:
        raise Refused(f"tensors of {sum(reader.storages.values())} elements, in a file of {most_elements} bytes")
