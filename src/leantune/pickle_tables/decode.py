"""Decodes the opcodes of a pickle to inert nodes.

The pickle machine here is stricter than Python's wherever picklers do not use the difference: memo indexes increase by
one, every operand must exist, and no object gets two states. Opcodes that duplicate values, use a registry or take
objects from outside the file are not supported.
"""

from __future__ import annotations

from collections.abc import Callable

from leantune.errors import UnsafeFileError
from leantune.pickle_tables.names import KINDS
from leantune.pickle_tables.nodes import UNSET, Built, Group, Mapping, Name, Pairs, described
from leantune.pickle_tables.opcodes import Place, opcodes, refusal
from leantune.pickle_tables.simplify import simplified
from leantune.system.messages import shown

MAX_STACK = 10_000
MAX_TEXT = 2**32
MAX_INT_BITS = 14_285  # 4,300 digits

# A container can take one byte in the file and a hundred in memory. Real tables have at most one per row.
FREE_CONTAINERS = 2**20
BYTES_PER_CONTAINER = 8

_KEYS = (str, int, float, bytes, tuple, type(None), Built)


def decode(data: bytes, name: str) -> object:
    """Decode a pickle without importing or calling anything.

    Args:
        data: the whole pickle.
        name: the file, for messages.

    Returns:
        The value of the pickle: numbers, texts, bytes, None, lists and tuples as they are, and the types of ``nodes``
        for everything else.

    Raises:
        UnsafeFileError: the pickle has a name that no known table needs, or opcodes that no pickler writes.
        DataError: the pickle is cut short.
    """
    machine = _Machine(name, FREE_CONTAINERS + len(data) // BYTES_PER_CONTAINER)
    for opcode, argument, start in opcodes(data, name):
        machine.do(opcode, argument, start)
    return machine.result()


class _Machine:
    """A pickle machine with a stack, a memo, and a method for each opcode that a table needs."""

    def __init__(self, name: str, max_containers: int) -> None:
        self._name, self._max_containers = name, max_containers
        self._opcode, self._start = "", 0
        self._stack: list[object] = []
        self._outer: list[list[object]] = []
        self._memo: list[object] = []
        self._num_outer = self._num_text = self._num_containers = 0
        self._methods = self._method_table()

    def do(self, opcode: str, argument: object, start: int) -> None:
        """Execute one opcode.

        Raises:
            UnsafeFileError: the operands are invalid, or a limit is exceeded.
        """
        self._opcode, self._start = opcode, start
        self._methods[opcode](argument)
        if len(self._stack) + self._num_outer > MAX_STACK:
            raise self._refusal(f"more than {MAX_STACK:,} values on the stack")

    def result(self) -> object:
        """Return the only value left at STOP."""
        if self._outer or len(self._stack) != 1:
            raise self._refusal(f"{len(self._stack) + self._num_outer} values at the end, expected 1")
        return self._stack[0]

    def _method_table(self) -> dict[str, Callable[[object], None]]:
        push, contain = self._push, self._push_container
        return {
            "STOP": lambda _: None,
            **dict.fromkeys(
                ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"), self._push_int
            ),
            **dict.fromkeys(("FLOAT", "BINFLOAT"), push),
            **dict.fromkeys(("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), self._push_text),
            **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), self._push_text),
            "NONE": lambda _: push(None),
            "NEWTRUE": lambda _: push(True),
            "NEWFALSE": lambda _: push(False),
            "EMPTY_TUPLE": lambda _: push(()),
            "EMPTY_LIST": lambda _: contain([]),
            "EMPTY_DICT": lambda _: contain(Mapping()),
            "EMPTY_SET": lambda _: contain(Group()),
            "TUPLE1": lambda _: contain(self._pop_many(1)),
            "TUPLE2": lambda _: contain(self._pop_many(2)),
            "TUPLE3": lambda _: contain(self._pop_many(3)),
            "MARK": self._mark,
            "TUPLE": lambda _: contain(tuple(self._pop_to_mark())),
            "LIST": lambda _: contain(self._pop_to_mark()),
            "DICT": lambda _: contain(Mapping(self._pairs(self._pop_to_mark()))),
            "FROZENSET": lambda _: contain(Group(self._pop_to_mark())),
            "POP": lambda _: self._discard(self._pop()),
            "POP_MARK": lambda _: self._discard(self._pop_to_mark()),
            "APPEND": lambda _: self._append([self._pop()]),
            "APPENDS": lambda _: self._append(self._pop_to_mark()),
            "ADDITEMS": lambda _: self._add(self._pop_to_mark()),
            "SETITEM": lambda _: self._set_items(list(self._pop_many(2))),
            "SETITEMS": lambda _: self._set_items(self._pop_to_mark()),
            **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), self._get),
            **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), self._put),
            "MEMOIZE": self._memoize,
            "GLOBAL": self._global,
            "STACK_GLOBAL": lambda _: self._push_name(*self._pop_many(2)),
            "REDUCE": lambda _: self._build(*self._pop_many(2)),
            "NEWOBJ": lambda _: self._build(*self._pop_many(2)),
            "BUILD": self._set_state,
        }

    # Pushing

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _push_int(self, value: object) -> None:
        if isinstance(value, int) and value.bit_length() > MAX_INT_BITS:
            raise self._refusal(f"a number of {value.bit_length():,} bits")
        self._stack.append(value)

    def _push_text(self, value: object) -> None:
        self._count_text(value)
        self._stack.append(value)

    def _push_container(self, node: object) -> None:
        self._num_containers += 1
        if self._num_containers > self._max_containers:
            raise self._refusal(f"more than {self._max_containers:,} containers in a file of this size")
        self._stack.append(node)

    def _count_text(self, value: object) -> None:
        if isinstance(value, (str, bytes, bytearray)):
            self._num_text += len(value)
            if self._num_text > MAX_TEXT:
                raise self._refusal(f"more than {MAX_TEXT:,} characters in all, shared texts counted again")

    # Popping

    def _pop(self) -> object:
        return self._pop_many(1)[0]

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

    def _discard(self, _: object) -> None:
        """Discard popped values."""

    # The memo

    def _get(self, index: object) -> None:
        if not isinstance(index, int) or not 0 <= index < len(self._memo):
            raise self._refusal(f"memo entry {shown(index)}, which was not set")
        self._push_text(self._memo[index])

    def _put(self, index: object) -> None:
        if index != len(self._memo):
            raise self._refusal(f"memo entry {shown(index)}, expected the next, {len(self._memo)}")
        self._memoize(index)

    def _memoize(self, _: object) -> None:
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

    def _pairs(self, items: list[object]) -> Pairs:
        if len(items) % 2:
            raise self._refusal(f"{len(items)} items, expected pairs of key and value")
        for key in items[::2]:
            if not isinstance(key, _KEYS):
                raise self._refusal(f"{described(key)} as a key")
        return list(zip(items[::2], items[1::2], strict=True))

    # Names and objects

    def _global(self, names: object) -> None:
        assert isinstance(names, tuple)
        self._push_name(*names)

    def _push_name(self, module: object, qualname: object) -> None:
        if type(module) is not str or type(qualname) is not str:
            raise self._refusal(f"{described(module)} and {described(qualname)} as a name, expected texts")
        kind = KINDS.get((module, qualname))
        if kind is None:
            raise self._refusal(f"the name {shown(f'{module}.{qualname}', 100)}, which no table needs")
        self._stack.append(Name(kind, self._start))

    def _build(self, function: object, args: object) -> None:
        if not isinstance(function, Name) or type(args) is not tuple:
            raise self._refusal(f"{described(function)} called with {described(args)}")
        value = simplified(Built(function.kind, args, self._start))
        if value is None:
            raise self._refusal(f"{described(function)} called with arguments that no table needs")
        self._push_container(value)

    def _set_state(self, _: object) -> None:
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
        return refusal(self._name, Place(self._opcode, self._start), found)
