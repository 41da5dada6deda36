"""Opcodes and limits (P06, P17, P18, P20 to P28, P34 to P38)."""

from __future__ import annotations

import copyreg
import os
import pickle
import runpy
import struct
from pathlib import Path
from typing import Any

import pytest

from leantune.data.text.read import Columns, open_examples
from leantune.errors import DataError

ASSEMBLER = runpy.run_path(str(Path(__file__).with_name("assembler.py")))
Ref, Call, Raw = ASSEMBLER["Ref"], ASSEMBLER["Call"], ASSEMBLER["Raw"]
pickled, assembled = ASSEMBLER["pickled"], ASSEMBLER["assembled"]

SYSTEM = b"cos\nsystem\n"
FRAME = Ref("pandas.core.frame", "DataFrame")
NAME_PARTS = assembled("os") + assembled("system")

OPCODES: dict[str, bytes] = {
    "P06-reconstructor-of-a-foreign-class": pickled(
        Call(Ref("copyreg", "_reconstructor"), (Ref("os", "x"), 1, None))
    ),
    "P06-reconstructor-with-another-base": pickled(
        Call(Ref("copyreg", "_reconstructor"), (FRAME, Ref("builtins", "bytearray"), 10**12))
    ),
    "P06-reconstructor-with-a-value": pickled(
        Call(Ref("copyreg", "_reconstructor"), (FRAME, Ref("builtins", "object"), 1))
    ),
    "P17-names-from-the-memo": b"\x80\x04"
    + assembled("os")
    + b"\x940"
    + assembled("system")
    + b"\x940h\x00h\x01\x93.",
    "P17-put-and-memoize": b"\x80\x04"
    + assembled("os")
    + b"q\x05\x940h\x05"
    + assembled("system")
    + b"\x93.",
    "P17-dup": b"\x80\x04" + assembled("os") + b"2\x93.",
    "P17-escapes": b"\x80\x04Vo\\u0073\nVsyste\\u006d\n\x93.",
    "P17-escapes-in-global": b"\x80\x02cpandas\n\\x44ataFrame\n)R.",
    "P18-names-made-by-reduce": pickled(
        Raw(assembled(Call(Ref("_codecs", "encode"), ("os", "latin1"))) + assembled("system") + b"\x93"), 4
    ),
    "P18-names-that-are-names": pickled(Raw(assembled(FRAME) + assembled("system") + b"\x93"), 4),
    "P20-inst": b"\x80\x02(" + assembled("true") + b"ios\nsystem\n.",
    "P20-inst-of-an-allowed-class": b"\x80\x02(ipandas\nDataFrame\n.",
    "P21-obj": b"\x80\x02(" + SYSTEM + assembled("true") + b"o.",
    "P21-obj-of-an-allowed-class": b"\x80\x02(" + assembled(FRAME) + b"o.",
    "P21-obj-and-pop": b"\x80\x02(" + assembled(FRAME) + b"o0" + assembled(["a"]) + b".",
    "P22-newobj-with-arguments": pickled(Call(FRAME, ({"text": ["a"]},), opcode=b"\x81")),
    "P22-newobj-elsewhere": pickled([Call(Ref("datasets.info", "DatasetInfo"), (), opcode=b"\x81")]),
    "P22-newobj-of-a-function": pickled(Call(Ref("_codecs", "encode"), ("x", "rot13"), opcode=b"\x81")),
    "P22-newobj-ex": b"\x80\x04" + assembled(FRAME) + b")}\x92.",
    "P23-ext1": b"\x80\x02\x82\x01.",
    "P23-ext2": b"\x80\x02\x83\x01\x00.",
    "P23-ext4": b"\x80\x02\x84\x01\x00\x00\x00.",
    "P24-persid": b"Pabc\n.",
    "P24-binpersid": b"\x80\x02" + assembled(("storage", "torch")) + b"Q.",
    "P25-next-buffer": b"\x80\x05\x97.",
    "P25-readonly-buffer": b"\x80\x05\x97\x98.",
    "P26-unknown-opcode": b"\x80\x02\xff.",
    "P26-protocol-6": b"\x80\x06N.",
    "P26-second-protocol": b"\x80\x02\x80\x02N.",
    "P26-frame-beyond-the-end": b"\x80\x04\x95" + struct.pack("<Q", 100) + b"N.",
    "P26-frame-in-a-frame": b"\x80\x04\x95" + struct.pack("<Q", 11) + b"\x95" + struct.pack("<Q", 2) + b"N.",
    "P26-opcode-across-a-frame": b"\x80\x04\x95" + struct.pack("<Q", 3) + assembled("text") + b".",
    "P26-nothing-before-stop": b"\x80\x02.",
    "P26-two-values-at-stop": b"\x80\x02NN.",
    "P26-mark-at-stop": b"\x80\x02N(.",
    "P27-build-on-a-class": pickled(Raw(assembled(FRAME) + assembled((None, {"a": 1})) + b"b")),
    "P27-build-on-a-function": pickled(Raw(assembled(Ref("_codecs", "encode")) + assembled({"a": 1}) + b"b")),
    "P27-build-on-a-list": pickled(Raw(b"]" + assembled({"a": 1}) + b"b")),
    "P27-build-twice": pickled(Raw(assembled(Call(FRAME, (), {"a": 1})) + assembled({"b": 1}) + b"b")),
    "P27-slot-state": pickled(Call(FRAME, (), (None, {"_mgr": None}))),
    "P27-class-key": pickled(Call(FRAME, (), {"__class__": 1})),
    "P27-setattr-key": pickled(Call(FRAME, (), {"__setattr__": 1})),
    "P28-huge-bytearray": pickled(Call(Ref("builtins", "bytearray"), (10**12,))),
    "P28-huge-bytes": pickled(Call(Ref("builtins", "bytes"), (10**12,))),
    "P28-zip-codec": pickled(Call(Ref("_codecs", "encode"), ("x", "zip"))),
    "P28-not-latin-1": pickled(Call(Ref("_codecs", "encode"), ("\u0100", "latin1"))),
    "P28-call-of-a-list": pickled(Call([], ())),
    "P28-call-of-a-result": pickled(Call(Call(FRAME), ())),
    "P28-arguments-that-are-no-tuple": pickled(Raw(assembled(FRAME) + b"]R")),
    "P34-get-of-nothing": b"\x80\x02h\x00.",
    "P34-get-text-of-nothing": b"g-1\n.",
    "P34-put-far": b"\x80\x02Nr\x00\x00\x00\x80.",
    "P34-put-of-nothing": b"\x80\x02q\x00N.",
    "P34-pop-below-the-mark": b"\x80\x02N(0N.",
    "P34-pop-of-nothing": b"\x80\x020N.",
    "P34-no-mark": b"\x80\x02Nt.",
    "P34-setitems-of-an-odd-number": b"\x80\x02}(NNNu.",
    "P34-setitem-on-a-list": b"\x80\x02]NNs.",
    "P34-append-to-a-dict": b"\x80\x02}Na.",
    "P34-additems-to-a-list": b"\x80\x04](N\x90.",
    "P34-list-as-a-key": b"\x80\x02}]Ns.",
    "P34-dict-as-a-key": b"\x80\x02(}Nd.",
    "P36-binbytes8": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
    "P36-binbytes8-beyond-64-bits": b"\x80\x04\x8e" + struct.pack("<Q", 2**64 - 1) + b"x.",
    "P36-binunicode8": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",
    "P36-bytearray8": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.",
    "P36-frame": b"\x80\x04\x95" + struct.pack("<Q", 2**63) + b"N.",
    "P36-binunicode": b"\x80\x02X\xff\xff\xff\xffx.",
    "P36-long4-negative": b"\x80\x02\x8b\xff\xff\xff\xff.",
    "P36-long4-large": b"\x80\x02\x8b" + struct.pack("<I", 10_000) + b"\x7f" * 10_000 + b".",
    "P36-int-of-many-digits": b"I" + b"1" * 10**7 + b"\n.",
    "P36-long-of-many-digits": b"L" + b"1" * 10**7 + b"L\n.",
    "P36-int-that-is-none": b"Ixyz\n.",
    "P36-unicode-that-is-none": b"\x80\x02X\x01\x00\x00\x00\xff.",
    "P36-python-2-text": b"\x80\x02U\x01\xe9.",
    "P36-stack": b"\x80\x02" + b"N" * 20_000 + b".",
    "P36-marks": b"\x80\x02" + b"(" * 20_000 + b".",
    "P36-nesting": b"\x80\x02" + b"]" * 100 + b"a" * 99 + b".",
    "P36-tuple-nesting": b"\x80\x02N" + b"\x85" * 100_000 + b".",
    "P41-bytes-after-stop": pickle.dumps({"text": ["a"]}) + b"x",
    "P41-two-pickles": pickle.dumps({"text": ["a"]}) + pickle.dumps({"text": ["a"]}),
    "P41-foreign-after-stop": pickle.dumps({"text": ["a"]}) + SYSTEM + assembled("true") + b"\x85R.",
    "other-a-number": pickled(7),
    "other-a-text": pickled("text"),
    "other-a-tuple": pickled(("a", "b")),
    "other-a-set": b"\x80\x04\x8f(" + assembled("a") + b"\x90.",
    "other-a-name": pickled(FRAME),
    "other-a-list-of-names": pickled([FRAME]),
    "other-a-dict-of-texts": pickled({"text": "a"}),
    "other-a-dict-of-dicts": pickled({"text": {"0": "a"}}),
    "other-rows-and-texts": pickled([{"text": "a"}, "b"]),
    "other-empty-frame": pickled(Call(FRAME)),
}


@pytest.mark.parametrize("content", OPCODES.values(), ids=OPCODES)
def test_opcodes(refused: Any, content: bytes) -> None:
    message = refused(content)
    assert ": byte " in message or ": structure: " in message
    assert "refused, and nothing of it was run" in message


@pytest.mark.parametrize("code", [1, 70_000])
def test_a_warm_extension_cache_changes_nothing(refused: Any, code: int) -> None:
    copyreg.add_extension("os", "system", code)
    copyreg._extension_cache[code] = os.system  # type: ignore[attr-defined]
    try:
        refused(b"\x80\x02\x84" + struct.pack("<I", code) + assembled(("true",)) + b"R.")
        refused(b"\x80\x02\x82\x01" + assembled(("true",)) + b"R.")
    finally:
        copyreg.remove_extension("os", "system", code)


def laughs(depth: int) -> bytes:
    """Each list holds the one before it ten times."""
    layers = [b"0](" + b"h%c" % level * 10 + b"eq%c" % (level + 1) for level in range(depth)]
    return b"\x80\x02]" + assembled("lol") + b"aq\x00" + b"".join(layers) + b"."


def test_p35_billion_laughs(refused: Any) -> None:
    assert "shared parts counted again" in refused(laughs(20))
    assert "structure" in refused(laughs(64))


def test_p35_many_references_to_one_text(refused: Any) -> None:
    many = b"\x80\x02](" + assembled("x" * 10**6) + b"q\x00" + b"h\x00" * 10**7 + b"e."
    assert "shared texts counted again" in refused(many)


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02]q\x00h\x00a.",
        b"\x80\x02}q\x00" + assembled("text") + b"h\x00s.",
        b"\x80\x02]q\x00(h\x00ta.",
        b"\x80\x02" + assembled(FRAME) + b")\x81q\x00}" + assembled("_mgr") + b"h\x00sb.",
    ],
)
def test_p37_a_value_that_holds_itself(refused: Any, content: bytes) -> None:
    assert "holds itself" in refused(content, DataError)


@pytest.mark.parametrize("protocol", range(6))
def test_p38_cut_short(tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps({"text": ["some words"] * 3, "label": [1, 300, 70_000]}, protocol)
    path = tmp_path / "rows.pkl"
    for length in range(1, len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"is cut short at byte"):
            open_examples(str(path), Columns(), labels="ignore")


def test_p38_a_payload_before_a_broken_tail(refused: Any) -> None:
    broken = pickled(Call(Ref("os", "system"), ("true",)))[:-1]
    assert "the name 'os.system'" in refused(broken)
    assert "the name 'os.system'" in refused(broken + b"\xff\xff")
    assert "the name 'os.system'" in refused(b"\x80\x04\x95" + struct.pack("<Q", 1000) + broken[2:])
