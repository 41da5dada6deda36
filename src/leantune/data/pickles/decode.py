"""From the opcodes of a pickle to inert nodes.

This machine is stricter than the real one wherever picklers never use the difference: memo indexes count up
by one, every operand must be there, no object gets two states, and opcodes that duplicate, that ask a
registry or that take objects from outside the file do not exist.
"""

from __future__ import annotations

from collections.abc import Callable

from leantune.data.pickles.names import KINDS
from leantune.data.pickles.nodes import UNSET, Built, Group, Mapping, Name, described
from leantune.data.pickles.opcodes import Opcode, opcodes, refusal
from leantune.data.pickles.simplify import simplified
from leantune.data.wording import shown
from leantune.errors import UnsafeFileError

MAX_STACK = 10_000
MAX_TEXT = 2**32
MAX_INT_BITS = 14_285

_VALUES = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_KEYS = (str, int, float, bytes, tuple, type(None), Built)


def decode(data: bytes, name: str) -> object:
    """The value that a pickle describes.

    Args:
        data: the whole pickle.
        name: the file, for messages.

    Returns:
        Numbers, texts, bytes, None, lists and tuples as they are, and the types of ``nodes``.

    Raises:
        UnsafeFileError: a name that no known table needs, or opcodes that no pickler writes.
        DataError: the pickle is cut short.
    """
    machine = _Machine(name)
    for opcode in opcodes(data, name):
        machine.do(opcode)
    return machine.result()


class _Machine:
    """The stack, the memo, and a method for every opcode that a table needs."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._opcode = Opcode("STOP", None, 0, 0)
        self._stack: list[object] = []
        self._outer: list[list[object]] = []
        self._num_outer = 0
        self._memo: list[object] = []
        self._num_text = 0
        self._methods = self._method_table()

    def do(self, opcode: Opcode) -> None:
        """Follow one opcode.

        Raises:
            UnsafeFileError: an opcode of no table, or operands that it cannot have.
        """
        self._opcode = opcode
        method = self._methods.get(opcode.name)
        if method is None:
            raise self._refusal("an opcode that no table needs")
        method(opcode.argument)
        if len(self._stack) + self._num_outer > MAX_STACK:
            raise self._refusal(f"more than {MAX_STACK:,} values on the stack")

    def result(self) -> object:
        """The one value that is left at STOP."""
        if self._outer or len(self._stack) != 1:
            raise self._refusal(f"{len(self._stack) + self._num_outer} values at the end, expected 1")
        return self._stack[0]

    def _method_table(self) -> dict[str, Callable[[object], None]]:
        return {
            **dict.fromkeys(_VALUES, self._value),
            **{name: self._constant(value) for name, value in _CONSTANTS.items()},
            "STOP": lambda _: None,
            "MARK": self._mark,
            "POP": lambda _: self._discard(),
            "POP_MARK": lambda _: self._discard_to_mark(),
            "EMPTY_LIST": lambda _: self._stack.append([]),
            "EMPTY_DICT": lambda _: self._stack.append(Mapping()),
            "EMPTY_SET": lambda _: self._stack.append(Group()),
            "LIST": lambda _: self._push_from_mark(list),
            "TUPLE": lambda _: self._push_from_mark(tuple),
            "FROZENSET": lambda _: self._push_from_mark(Group),
            "DICT": lambda _: self._push_from_mark(lambda items: Mapping(self._pairs(items))),
            "TUPLE1": lambda _: self._stack.append((self._pop(),)),
            "TUPLE2": lambda _: self._stack.append(self._pop_many(2)),
            "TUPLE3": lambda _: self._stack.append(self._pop_many(3)),
            "APPEND": lambda _: self._append([self._pop()]),
            "APPENDS": lambda _: self._append(self._pop_to_mark()),
            "ADDITEMS": lambda _: self._add(self._pop_to_mark()),
            "SETITEM": lambda _: self._set_items(list(self._pop_many(2))),
            "SETITEMS": lambda _: self._set_items(self._pop_to_mark()),
            **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), self._get),
            **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), self._put),
            "MEMOIZE": lambda _: self._put(len(self._memo)),
            "GLOBAL": self._global,
            "STACK_GLOBAL": lambda _: self._push_name(*self._pop_many(2)),
            "REDUCE": lambda _: self._build(*self._pop_many(2)),
            "NEWOBJ": lambda _: self._build(*self._pop_many(2)),
            "BUILD": lambda _: self._set_state(),
        }

    # The stack

    def _pop(self) -> object:
        if not self._stack:
            raise self._refusal("no value on the stack")
        return self._stack.pop()

    def _pop_many(self, count: int) -> tuple[object, ...]:
        if len(self._stack) < count:
            raise self._refusal(f"{len(self._stack)} values on the stack, expected {count}")
        values = tuple(self._stack[-count:])
        del self._stack[-count:]
        return values

    def _top(self) -> object:
        if not self._stack:
            raise self._refusal("no value on the stack")
        return self._stack[-1]

    def _mark(self, _: object) -> None:
        self._num_outer += len(self._stack) + 1
        self._outer.append(self._stack)
        self._stack = []

    def _pop_to_mark(self) -> list[object]:
        if not self._outer:
            raise self._refusal("no mark on the stack")
        items, self._stack = self._stack, self._outer.pop()
        self._num_outer -= len(self._stack) + 1
        return items

    def _push_from_mark(self, make: Callable[[list[object]], object]) -> None:
        items = self._pop_to_mark()
        self._stack.append(make(items))

    def _discard(self) -> None:
        self._pop()

    def _discard_to_mark(self) -> None:
        self._pop_to_mark()

    # Values

    def _value(self, value: object) -> None:
        self._count_text(value)
        if isinstance(value, int) and value.bit_length() > MAX_INT_BITS:
            raise self._refusal(f"a number of {value.bit_length():,} bits")
        if self._opcode.name.endswith("STRING") and not str(value).isascii():
            raise self._refusal("a Python 2 text with other letters than ASCII")
        self._stack.append(value)

    def _constant(self, value: object) -> Callable[[object], None]:
        return lambda _: self._stack.append(value)

    def _count_text(self, value: object) -> None:
        if isinstance(value, (str, bytes, bytearray)):
            self._num_text += len(value)
            if self._num_text > MAX_TEXT:
                raise self._refusal(f"more than {MAX_TEXT:,} characters in all, shared texts counted again")

    def _get(self, index: object) -> None:
        if not isinstance(index, int) or not 0 <= index < len(self._memo):
            raise self._refusal(f"memo entry {shown(index)}, which was not set")
        value = self._memo[index]
        self._count_text(value)
        self._stack.append(value)

    def _put(self, index: object) -> None:
        if index != len(self._memo):
            raise self._refusal(f"memo entry {shown(index)}, expected the next, {len(self._memo)}")
        self._memo.append(self._top())

    # Containers

    def _append(self, items: list[object]) -> None:
        target = self._top()
        if type(target) is not list:
            raise self._refusal(f"items for {described(target)}, expected a list")
        target.extend(items)

    def _add(self, items: list[object]) -> None:
        target = self._top()
        if not isinstance(target, Group):
            raise self._refusal(f"items for {described(target)}, expected a set")
        target.items.extend(items)

    def _set_items(self, items: list[object]) -> None:
        pairs = self._pairs(items)
        target = self._top()
        if not isinstance(target, (Mapping, Built)):
            raise self._refusal(f"keys for {described(target)}, expected a dict")
        target.pairs.extend(pairs)

    def _pairs(self, items: list[object]) -> list[tuple[object, object]]:
        if len(items) % 2:
            raise self._refusal(f"{len(items)} items, expected pairs of key and value")
        for key in items[::2]:
            if not isinstance(key, _KEYS):
                raise self._refusal(f"{described(key)} as a key")
        return list(zip(items[::2], items[1::2], strict=True))

    # Names and objects

    def _global(self, argument: object) -> None:
        module, _, qualname = str(argument).partition(" ")
        self._push_name(module, qualname)

    def _push_name(self, module: object, qualname: object) -> None:
        if type(module) is not str or type(qualname) is not str:
            raise self._refusal(f"{described(module)} and {described(qualname)} as a name, expected texts")
        kind = KINDS.get((module, qualname))
        if kind is None:
            raise self._refusal(f"the name {shown(f'{module}.{qualname}', 100)}, which no table needs")
        self._stack.append(Name(kind, self._opcode.start))

    def _build(self, function: object, args: object) -> None:
        if not isinstance(function, Name) or type(args) is not tuple:
            raise self._refusal(f"{described(function)} called with {described(args)}")
        value = simplified(Built(function.kind, args, self._opcode.start))
        if value is None:
            raise self._refusal(f"{described(function)} called with arguments that no table needs")
        self._stack.append(value)

    def _set_state(self) -> None:
        state = self._pop()
        target = self._top()
        if not isinstance(target, Built) or target.state is not UNSET:
            raise self._refusal(f"a state for {described(target)}, which has none or has one already")
        if isinstance(state, Mapping):
            hidden = [key for key, _ in state.pairs if isinstance(key, str) and key.startswith("__")]
            if hidden:
                raise self._refusal(f"the attribute {shown(hidden[0])} for {described(target)}")
        target.state = state

    def _refusal(self, found: str) -> UnsafeFileError:
        return refusal(self._name, self._opcode, found)
