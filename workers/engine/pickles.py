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

LONGEST_KEY = 200
"""Characters of a storage's key or place."""
LARGEST_INTEGER = 1 << 60
"""Larger ones may have the same hash by the million, and a dictionary of those takes hours."""
REBUILT = {
    *(f"torch._utils._rebuild_{name}" for name in ("tensor", "tensor_v2", "parameter", "sparse_tensor",
                                                   "meta_tensor_no_storage")),
    "torch.serialization._get_layout",
}  # fmt: skip
"""Calls that view what is there."""
SPARSE = "torch._utils._rebuild_sparse_tensor"
MAPPINGS = {"collections.OrderedDict", "collections.Counter"}
VALUES = {"builtins.complex", "_codecs.encode", "torch.Size", "torch.device"}
"""Calls that copy what they are given."""
CALLED = REBUILT | MAPPINGS | VALUES
NAMED = re.compile(
    r"torch\.(\w+Storage|storage\.(Typed|Untyped)Storage|u?int\d+|b?float\w*|complex\w*|bool|q\w+|bits\w+)"
)
"""What may be named, and not called."""
DICT, LIST, MAPPING, OTHER = object(), object(), object(), object()
"""A dictionary, a list, what MAPPINGS make, and whatever else there is, on the stack of a reader."""
PUSHED = {"NONE": None, "NEWFALSE": False, "NEWTRUE": True, "EMPTY_TUPLE": (), "EMPTY_DICT": DICT, "EMPTY_LIST": LIST}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
TEXTS = {"PROTO", "EMPTY_LIST", "MARK", "BINUNICODE", "BINPUT", "LONG_BINPUT", "APPEND", "APPENDS", "STOP"}
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
            self._build(stack.pop(), bare(stack[-1]))
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
        if type(arguments) is not tuple or not _own(arguments):
            allowed = False
        elif name in MAPPINGS:
            allowed = arguments in ((), (DICT,))
        elif name in VALUES:
            allowed = all(map(_small, arguments))
        elif name == SPARSE:  # an error would print what is no layout
            allowed = bare(arguments[0]) is OTHER
        if not allowed:
            raise Refused(f"a call of {name} that tensors and plain values do not need")
        self.stack[-1] = MAPPING if name in MAPPINGS else OTHER

    def _build(self, state: Any, target: Any) -> None:
        """What updates a mapping's attributes is a dictionary, whose keys are known: pairs may have any."""
        if isinstance(state, Again):
            raise Refused("the same state for several objects")
        if not _own(state) or (target is MAPPING and state is not DICT):
            raise Refused("a state that tensors and plain values do not need")

    def _storage(self, about: Any) -> None:
        """A storage by its kind, key, place and number of elements, and in old files what part of another it is."""
        if type(about) is not tuple or len(about) < 5 or type(bare(about[4])) is not int or bare(about[4]) < 0:
            raise Refused("a storage of no size")
        said, kind, key, place, elements, *views = map(bare, about)
        texts = [said, key, place, *(bare(view[0]) for view in views if view)]
        if not isinstance(kind, Name) or not all(map(_short, texts)) or said != "storage":
            raise Refused("a storage that is not told by short texts")
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


def _own(argument: Any) -> bool:
    """Whether no tuple in it stands elsewhere too: copies add up, and those that hold each other twice have no end."""
    if type(argument) is tuple:
        return all(map(_own, argument))
    return not (isinstance(argument, Again) and type(argument.value) is tuple)


def _short(text: Any) -> bool:
    """Whether it is hashed, compared and printed at once."""
    return isinstance(text, str) and len(text) <= LONGEST_KEY


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


def check_texts(pickle: BytesIO) -> None:
    """Read one pickle of a list of texts, and stop behind it. Raises Refused, and whatever a damaged one raises."""
    for opcode, _, _ in pickletools.genops(pickle):
        if opcode.name not in TEXTS:
            raise Refused(f"the instruction {opcode.name} among keys")
