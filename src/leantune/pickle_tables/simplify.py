"""Simplifies calls of old protocols whose result needs no library: bytes and objects.

Protocols 0 to 2 write bytes as a call with a Latin-1 text, and protocols 0 and 1 write an object as a call of
``copyreg._reconstructor``. Such calls become plain bytes, or objects as newer protocols write them.
"""

from __future__ import annotations

from leantune.pickle_tables.nodes import Built, Mapping, Name


def simplified(call: Built) -> object | None:
    """Return the result of a call, the call itself if it cannot be simplified, or None if its arguments are invalid."""
    if call.kind == "codecs.encode":
        return _latin_1(call.args) if call.args[1:] == ("latin1",) else None
    if call.kind in ("builtins.bytes", "builtins.bytearray"):
        return _bytes(call.args)
    if call.kind == "copyreg._reconstructor":
        return _object(call)
    return call


def _latin_1(args: tuple[object, ...]) -> bytes | None:
    text = args[0]
    if type(text) is not str or (text and max(text) > "\xff"):
        return None
    return text.encode("latin-1")


def _bytes(args: tuple[object, ...]) -> bytes | None:
    if args == ():
        return b""
    if args[1:] == ("latin-1",):
        return _latin_1(args)
    value = args[0]
    return value if len(args) == 1 and type(value) is bytes else None


def _object(call: Built) -> Built | None:
    """Simplify ``_reconstructor(cls, base, value)`` with base ``object`` and None, or base ``dict`` and a dict."""
    if len(call.args) != 3:
        return None
    cls, base, value = call.args
    if not isinstance(cls, Name) or not isinstance(base, Name):
        return None
    if base.kind == "builtins.object" and value is None:
        return Built(cls.kind, (), call.offset)
    if base.kind == "builtins.dict" and isinstance(value, Mapping):
        return Built(cls.kind, (), call.offset, pairs=value.pairs)
    return None
