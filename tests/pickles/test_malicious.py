"""Malicious pickles, class by class (P01 to P42 of the threat list): refused, with nothing imported, called or opened.

Every payload is assembled here. The names are real, but their arguments would do no harm.
"""

from __future__ import annotations

import bz2
import copyreg
import gzip
import io
import lzma
import os
import pickle
import runpy
import struct
import sys
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest

from leantune.data.read import Columns, open_examples
from leantune.errors import DataError, LeantuneError, UnsafeFileError

ASSEMBLER = runpy.run_path(str(Path(__file__).with_name("assembler.py")))
Ref, Call, Raw = ASSEMBLER["Ref"], ASSEMBLER["Call"], ASSEMBLER["Raw"]
pickled, assembled = ASSEMBLER["pickled"], ASSEMBLER["assembled"]

# The canary

WATCHED = (
    *("import", "open", "exec", "compile", "os.", "socket.", "subprocess.", "pickle.", "ctypes.", "marshal."),
    *("code.", "shutil.", "urllib.", "pty.", "glob.", "builtins.input", "builtins.breakpoint"),
)


class Watch:
    """An audit hook cannot be removed, so one hook notes events while a file is read."""

    def __init__(self) -> None:
        self.path: str | None = None
        self.events: list[str] = []
        sys.addaudithook(self.hook)

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self.path is None or (event == "open" and str(args[0]) == self.path):
            return
        if event.startswith(WATCHED):
            self.events.append(f"{event}{args[:1]}")

    @contextmanager
    def reading(self, path: Path) -> Iterator[None]:
        self.path, self.events = str(path), []
        try:
            yield
        finally:
            self.path = None


WATCH = Watch()


def read(path: Path) -> None:
    for _ in open_examples(str(path), Columns(), labels="ignore").batches():
        pass


@pytest.fixture(scope="module", autouse=True)
def _everything_is_imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the reader itself imports late, it imports before the canary watches."""
    path = tmp_path_factory.mktemp("warm") / "rows.pkl"
    for value in (
        {"text": ["a"]},
        pd.DataFrame({"text": ["a"]}),
        datasets.Dataset.from_dict({"text": ["a"]}),
    ):
        for pack in (lambda b: b, gzip.compress, bz2.compress, lzma.compress):
            for protocol in range(6):
                path.write_bytes(pack(pickle.dumps(value, protocol)))
                read(path)


def refused(path: Path, content: bytes, error: type[LeantuneError] = UnsafeFileError) -> str:
    """Read a file that must be refused, under the canary's eyes; returns the message."""
    path.write_bytes(content)
    tracemalloc.start()
    began = time.perf_counter()
    with WATCH.reading(path), pytest.raises(error) as caught:
        read(path)
    seconds = time.perf_counter() - began
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert WATCH.events == []
    assert peak <= 4 * len(content) + 200_000_000
    assert seconds < 20  # 2 s without tracemalloc
    message = str(caught.value)
    assert type(caught.value) is error
    assert "\n" not in message
    assert message.startswith(str(path))
    assert len(message) < 600 + len(str(path))
    return message


# P01 to P16: names

FOREIGN = """
P01 os.system posix.system nt.system os.execv os.popen posix.fork
P02 subprocess.Popen subprocess.call pty.spawn asyncio.create_subprocess_shell
P03 builtins.eval builtins.exec builtins.compile builtins.__import__ builtins.open builtins.breakpoint
P03 __builtin__.eval __builtin__.exec __builtin__.compile __builtin__.__import__ __builtin__.open builtins.map
P04 builtins.getattr builtins.setattr operator.attrgetter operator.methodcaller operator.itemgetter
P04 functools.partial functools.reduce builtins.vars builtins.globals builtins.apply
P05 importlib.import_module pkgutil.resolve_name pydoc.locate runpy.run_path runpy._run_code
P06 copyreg.__newobj__ copyreg.__newobj_ex__ copyreg.add_extension copyreg.dispatch_table
P07 types.CodeType types.FunctionType marshal.loads cloudpickle.cloudpickle._make_function dill._dill._create_type
P08 ctypes.CDLL _ctypes.dlopen cffi.FFI
P09 pdb.run bdb.Bdb profile.run cProfile.run trace.Trace timeit.timeit doctest.debug_script code.interact
P10 pip.main pip._internal.main ensurepip.bootstrap venv.create
P11 idlelib.run.Executive lib2to3.pgen2.grammar.Grammar uuid._get_command_stdout _aix_support._read_cmd_output
P11 _osx_support._read_output _pyrepl.pager.pipe_pager mailcap.findmatch imaplib.IMAP4_stream
P12 shutil.rmtree _io.FileIO io.open logging.FileHandler distutils.file_util.write_file pathlib.Path.write_text
P12 pathlib.PosixPath os.remove tempfile.mkstemp
P13 socket.socket urllib.request.urlopen http.client.HTTPSConnection ssl.get_server_certificate requests.get
P13 webbrowser.open ftplib.FTP smtplib.SMTP
P14 pickle.loads _pickle.loads joblib.load pandas.read_pickle numpy.load torch.load torch.storage._load_from_bytes
P15 numpy.f2py.crackfortran.param_eval numpy.testing._private.utils.runstring pandas.eval torch._dynamo.optimize
P15 torch.jit.unsupported_tensor_ops.execWrapper torch.utils.collect_env.run numpy.ctypeslib.load_library
P16 pandas.core.frame.DataFrame.eval pandas.DataFrame.to_pickle numpy.ndarray.tofile numpy.dtype.__class__
P28 collections.defaultdict collections.Counter builtins.range
P30 joblib.numpy_pickle.NumpyArrayWrapper numpy.memmap numpy.recarray
P33 pyarrow.lib.ExtensionType pyarrow.lib.PyExtensionType pyarrow.lib.foreign_buffer pyarrow.lib.memory_map
P44 leantune.errors.UsageError pandas.core.frame.DataFrameX pandas.core.frame.dataframe xpandas.DataFrame
"""
NAMES = [
    (line.split()[0], *name.rpartition(".")[::2])
    for line in FOREIGN.strip().splitlines()
    for name in line.split()[1:]
]


@pytest.mark.parametrize(("kind", "module", "name"), NAMES, ids=[f"{k}-{m}.{n}" for k, m, n in NAMES])
def test_foreign_names(tmp_path: Path, kind: str, module: str, name: str) -> None:
    path = tmp_path / "rows.pkl"
    for stack in (False, True):
        call = Call(Ref(module, name, stack), ("true",))
        for value in (call, {"text": ["a", call]}, Ref(module, name, stack), [Ref(module, name, stack)]):
            message = refused(path, pickled(value, 4))
            assert f"GLOBAL: the name '{module}.{name}', which no table needs" in message
            assert f"byte {pickled(value, 4).index(assembled(Ref(module, name, stack)))}" in message or stack


def test_dotted_names_below_an_allowed_module(tmp_path: Path) -> None:
    for name in ("DataFrame.eval", "DataFrame.to_pickle", "DataFrame.__init__.__globals__"):
        for module in ("pandas.core.frame", "pandas"):
            refused(tmp_path / "rows.pkl", pickled(Call(Ref(module, name, stack=True), ("x",)), 4))


# P06, P17 to P29 and P34: opcodes

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
def test_opcodes(tmp_path: Path, content: bytes) -> None:
    message = refused(tmp_path / "rows.pkl", content)
    assert ": byte " in message or ": structure: " in message
    assert "refused, and nothing of it was run" in message


@pytest.mark.parametrize("code", [1, 70_000])
def test_a_warm_extension_cache_changes_nothing(tmp_path: Path, code: int) -> None:
    copyreg.add_extension("os", "system", code)
    copyreg._extension_cache[code] = os.system  # type: ignore[attr-defined]
    try:
        refused(
            tmp_path / "rows.pkl", b"\x80\x02\x84" + struct.pack("<I", code) + assembled(("true",)) + b"R."
        )
        refused(tmp_path / "rows.pkl", b"\x80\x02\x82\x01" + assembled(("true",)) + b"R.")
    finally:
        copyreg.remove_extension("os", "system", code)


LOOK_ALIKES = [
    *(("оs", "system"), ("os\x00", "system"), (" os", "system"), ("os ", "system"), ("", ""), ("", "system")),
    *(("os", ""), ("pandas", "DataFrame "), ("pandas ", "DataFrame"), ("pandas\u200b", "DataFrame")),
    *(("pandas", "DataFrame\x00"), ("Pandas", "DataFrame"), ("pandas", "ＤataFrame")),
    *(("pandas\n", "DataFrame"), ("pandas DataFrame", ""), ("x" * 10**6, "y" * 10**6)),
]


@pytest.mark.parametrize(("module", "name"), LOOK_ALIKES, ids=range(len(LOOK_ALIKES)))
def test_p19_names_that_look_like_others(tmp_path: Path, module: str, name: str) -> None:
    message = refused(tmp_path / "rows.pkl", pickled(Call(Ref(module, name, stack=True), ("true",)), 4))
    assert "which no table needs" in message
    if "\n" not in module:
        refused(tmp_path / "rows.pkl", pickled(Call(Ref(module, name), ("true",)), 2))


# P29 and P30: payloads in cells


class Evil:
    """Pickles as a call of ``os.system``; never unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return self is other


def with_evil() -> dict[str, Any]:
    frame = pd.DataFrame({"text": ["a", "b"]})
    attributes = frame.copy()
    attributes.attrs["x"] = Evil()
    return {
        "P29-cell": pd.DataFrame({"text": ["a", Evil()]}),
        "P29-other-column": frame.assign(other=[1, Evil()]),
        "P29-index": frame.set_axis(pd.Index([1, Evil()], dtype=object), axis=0),
        "P29-index-name": frame.set_axis(pd.Index([1, 2], name=Evil()), axis=0),
        "P29-column-label": frame.set_axis(pd.Index([Evil()], dtype=object), axis=1),
        "P29-attributes": attributes,
        "P29-category": pd.DataFrame({"text": pd.Categorical([Evil()])}),
        "P29-series-name": pd.Series(["a"], name=Evil()),
        "P30-object-array": np.array(["a", Evil()], dtype=object),
        "P30-array-in-a-dict": {"text": ["a"], "other": np.array([Evil()], dtype=object)},
        "P29-key": {"text": ["a"], Evil(): ["b"]},
        "P29-row-value": [{"text": "a", "other": Evil()}],
        "P29-deep": {"text": ["a"], "other": [[[{"x": (Evil(),)}]]]},
    }


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("place", list(with_evil()))
def test_payload_in_a_table(tmp_path: Path, place: str, protocol: int) -> None:
    message = refused(tmp_path / "rows.pkl", pickle.dumps(with_evil()[place], protocol))
    assert "the name 'posix.system'" in message


# P30 to P33: arrays, datasets, Arrow

RECONSTRUCT, NDARRAY = Ref("numpy.core.multiarray", "_reconstruct"), Ref("numpy", "ndarray")


def dtype(letter: str, *, state: Any = None) -> Any:
    return Call(Ref("numpy", "dtype"), (letter, False, True), state or (3, "<", None, None, None, -1, -1, 0))


def array(shape: Any, kind: Any, raw: Any, *, args: Any = None, version: Any = 1) -> Any:
    return Call(RECONSTRUCT, args or (NDARRAY, (0,), b"b"), (version, shape, kind, False, raw))


def buffer_array(raw: Any, kind: Any, shape: Any, order: Any = "C") -> Any:
    return Call(Ref("numpy.core.numeric", "_frombuffer"), (raw, kind, shape, order))


ARRAYS: dict[str, Any] = {
    "P30-metadata": array(
        (1,),
        dtype("i8", state=(4, "<", None, None, None, -1, -1, 0, {"x": Call(Ref("os", "system"), ("true",))})),
        b"x" * 8,
    ),
    "P31-huge-shape": array((10**12,), dtype("i8"), b"x" * 8),
    "P31-negative-shape": array((-1,), dtype("i8"), b"x" * 8),
    "P31-overflowing-shape": array((2**31 - 1, 2**31 - 1), dtype("i8"), b"x" * 8),
    "P31-overflow-to-zero": array((2**30, 2**34), dtype("i8"), b""),
    "P31-true-as-a-length": array((True,), dtype("i8"), b"x" * 8),
    "P31-no-shape": array((), dtype("i8"), b"x" * 8),
    "P31-three-dimensions": array((1, 1, 1), dtype("i8"), b"x" * 8),
    "P31-objects-over-bytes": array((1,), dtype("O8"), b"x" * 8),
    "P31-too-few-objects": array((2,), dtype("O8"), ["a"]),
    "P31-too-few-bytes": array((2,), dtype("i8"), b"x" * 8),
    "P31-list-for-numbers": array((1,), dtype("i8"), [1]),
    "P31-version": array((1,), dtype("i8"), b"x" * 8, version=2),
    "P31-subclass": array((1,), dtype("i8"), b"x" * 8, args=(FRAME, (0,), b"b")),
    "P31-start-shape": array((1,), dtype("i8"), b"x" * 8, args=(NDARRAY, (10**12,), b"b")),
    "P31-order": buffer_array(b"x" * 8, dtype("i8"), (1,), "K"),
    "P31-frombuffer-shape": buffer_array(b"x" * 8, dtype("i8"), (10**12,)),
    "P31-size-of-a-number": array((1,), dtype("i7"), b"x" * 7),
    "P31-void": array((1,), dtype("V8"), b"x" * 8),
    "P31-type-text": array((1,), dtype("i8,O8"), b"x" * 16),
    "P31-type-of-types": array((1,), Call(Ref("numpy", "dtype"), (FRAME, False, True)), b"x"),
    "P31-byte-order": array((1,), dtype("i8", state=(3, "!", None, None, None, -1, -1, 0)), b"x" * 8),
    "P31-fields": array((1,), dtype("i8", state=(3, "|", None, ("a",), {"a": 1}, 8, 1, 0)), b"x" * 8),
    "P31-subarray": array(
        (1,), dtype("i8", state=(3, "|", (dtype("i8"), (9,)), None, None, 8, 1, 0)), b"x" * 8
    ),
    "P31-no-character": array((1,), dtype("U1"), b"\xff\xff\xff\x7f"),
    "P31-many-items-without-space": array((2**31 - 1,), dtype("U0"), b""),
    "P31-state-of-six": Call(RECONSTRUCT, (NDARRAY, (0,), b"b"), (1, (1,), dtype("i8"), False, b"x" * 8, 1)),
    "P31-scalar": [Call(Ref("numpy.core.multiarray", "scalar"), (dtype("i8"), b"x" * 9))],
    "P31-scalar-of-an-object": [Call(Ref("numpy.core.multiarray", "scalar"), (dtype("O8"), FRAME))],
}


@pytest.mark.parametrize("value", ARRAYS.values(), ids=ARRAYS)
def test_arrays(tmp_path: Path, value: Any) -> None:
    refused(tmp_path / "rows.pkl", pickled(value, 4))
    refused(tmp_path / "rows.pkl", pickled({"text": ["a"], "other": value}, 4))


def alias(name: str) -> Any:
    return Call(Ref("pyarrow.lib", "type_for_alias"), (name,))


def arrow_array(
    kind: Any,
    length: Any,
    buffers: Any,
    *,
    offset: Any = 0,
    nulls: Any = 0,
    children: Any = (),
    more: Any = None,
) -> Any:
    def packed(buffer: Any) -> Any:
        return Call(Ref("pyarrow.lib", "py_buffer"), (buffer,)) if isinstance(buffer, bytes) else buffer

    parts = (kind, length, nulls, offset, [packed(buffer) for buffer in buffers], list(children), more)
    return Call(Ref("pyarrow.lib", "_restore_array"), (parts,))


def arrow_table(columns: Any, names: Any = ("text",)) -> Any:
    fields = [Call(Ref("pyarrow.lib", "field"), (name, alias("string"), True, None)) for name in names]
    return Call(
        Ref("pyarrow.lib", "_reconstruct_table"),
        (list(columns), Call(Ref("pyarrow.lib", "schema"), (fields, None))),
    )


def dataset(data: Any, indices: Any = None, features: Any = None) -> Any:
    info = Call(Ref("datasets.info", "DatasetInfo"), (), {"features": features}, b"\x81")
    state = {"_info": info, "_data": data, "_indices": indices}
    return Call(Ref("datasets.arrow_dataset", "Dataset"), (), state, b"\x81")


def in_memory(table: Any) -> Any:
    return Call(Ref("datasets.table", "InMemoryTable"), (), {"table": table}, b"\x81")


def offsets(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}i", *values)


GOOD = arrow_array(alias("string"), 2, [None, offsets(0, 1, 2), b"ab"])
NUMBERS = arrow_array(alias("uint64"), 1, [None, struct.pack("<Q", 5)])
ARROW: dict[str, Any] = {
    "P33-offsets": arrow_array(alias("string"), 2, [None, offsets(0, 2**31 - 1, 2), b"ab"]),
    "P33-negative-offsets": arrow_array(alias("string"), 2, [None, offsets(-9, 1, 2), b"ab"]),
    "P33-falling-offsets": arrow_array(alias("string"), 2, [None, offsets(0, 2, 1), b"ab"]),
    "P33-length": arrow_array(alias("string"), 2**31 - 1, [None, offsets(0, 1, 2), b"ab"]),
    "P33-negative-length": arrow_array(alias("string"), -1, [None, offsets(0, 1, 2), b"ab"]),
    "P33-offset": arrow_array(alias("string"), 2, [None, offsets(0, 1, 2), b"ab"], offset=2**31 - 1),
    "P33-large-offsets": arrow_array(alias("large_string"), 2, [None, offsets(0, 1, 2), b"ab"]),
    "P33-no-buffers": arrow_array(alias("string"), 2, []),
    "P33-empty-buffers": arrow_array(alias("string"), 2, [None, None, None]),
    "P33-short-bitmap": arrow_array(alias("int8"), 100, [b"\xff", b"x" * 100]),
    "P33-children": arrow_array(alias("string"), 2, [None, offsets(0, 1, 2), b"ab"], children=[GOOD]),
    "P33-not-utf-8": arrow_array(alias("string"), 1, [None, offsets(0, 1), b"\xff"]),
    "P33-short-numbers": arrow_array(alias("int64"), 9, [None, b"x" * 8]),
    "P33-type": arrow_array(alias("extension<x>"), 1, [None, b"x" * 8]),
    "P33-type-of-names": arrow_array(alias(["string"]), 1, [None, b"x" * 8]),
    "P33-dictionary": arrow_array(
        Call(Ref("pyarrow.lib", "dictionary"), (alias("int8"), alias("string"), False)),
        1,
        [None, b"\x09"],
        more=GOOD,
    ),
    "P33-dictionary-of-nothing": arrow_array(
        Call(Ref("pyarrow.lib", "dictionary"), (alias("int8"), alias("string"), False)), 1, [None, b"\x00"]
    ),
    "P33-dictionary-of-floats": arrow_array(
        Call(Ref("pyarrow.lib", "dictionary"), (alias("double"), alias("string"), False)), 1, [None, b"x" * 8]
    ),
    "P33-buffer-of-a-text": arrow_array(
        alias("int8"), 1, [None, Call(Ref("pyarrow.lib", "py_buffer"), ("x",))]
    ),
    "P33-chunks-of-two-types": Call(
        Ref("pyarrow.lib", "chunked_array"), ([arrow_array(alias("int8"), 1, [None, b"x"])], alias("string"))
    ),
}
ENDLESS_DATES = arrow_array(Call(Ref("pyarrow.lib", "timestamp"), ("s", None)), 2**31 - 1, [None, b""])
ENDLESS_NULLS = arrow_array(alias("null"), 2**31 - 1, [None])
REPLAYS = {"path": "/etc/passwd", "table": GOOD, "replays": [("filter", (SYSTEM.decode(),), {})]}
MAPPED = Call(Ref("datasets.table", "MemoryMappedTable"), (), REPLAYS, b"\x81")
DATASETS: dict[str, Any] = {
    "P32-memory-mapped": dataset(MAPPED),
    "P32-memory-mapped-indices": dataset(in_memory(arrow_table([GOOD])), MAPPED),
    "P32-concatenated": dataset(
        Call(
            Ref("datasets.table", "ConcatenationTable"),
            (),
            {"blocks": [[in_memory(arrow_table([GOOD])), MAPPED]]},
        )
    ),
    "P32-memory-mapped-alone": MAPPED,
    "P32-indices-beyond": dataset(
        in_memory(arrow_table([GOOD])), in_memory(arrow_table([NUMBERS], ["indices"]))
    ),
    "P32-table-of-another-kind": dataset(in_memory({"text": ["a"]})),
    "P32-no-data": Call(Ref("datasets.arrow_dataset", "Dataset")),
    "P32-dates-without-end": dataset(in_memory(arrow_table([GOOD, ENDLESS_DATES], ["text", "date"]))),
    "P32-nulls-without-end": dataset(in_memory(arrow_table([GOOD, ENDLESS_NULLS], ["text", "null"]))),
    "P32-row-numbers-without-end": dataset(
        in_memory(arrow_table([GOOD])), in_memory(arrow_table([ENDLESS_NULLS], ["indices"]))
    ),
    "P32-one-name-for-two-columns": dataset(in_memory(arrow_table([GOOD, GOOD], ["text", "text"]))),
    "P32-columns-without-names": dataset(in_memory(arrow_table([GOOD, GOOD]))),
    "P32-features": dataset(
        in_memory(arrow_table([GOOD])), None, Call(Ref("datasets.features.features", "Features"))
    ),
    "P32-dataset-dict-of-lists": Call(Ref("datasets.dataset_dict", "DatasetDict"), (["a"],)),
    **{f"{name}-in-a-dataset": dataset(in_memory(arrow_table([value]))) for name, value in ARROW.items()},
}


def test_the_assembled_dataset_would_be_good(tmp_path: Path) -> None:
    (tmp_path / "rows.pkl").write_bytes(pickled(dataset(in_memory(arrow_table([GOOD]))), 4))
    read(tmp_path / "rows.pkl")


@pytest.mark.parametrize("value", DATASETS.values(), ids=DATASETS)
def test_datasets(tmp_path: Path, value: Any) -> None:
    refused(tmp_path / "rows.pkl", pickled(value, 4))


def test_a_dataset_on_disk_is_not_in_its_pickle(tmp_path: Path) -> None:
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "saved")
    message = refused(tmp_path / "rows.pkl", pickle.dumps(datasets.load_from_disk(tmp_path / "saved")))
    assert "it holds only the path of an Arrow file: save the dataset with to_parquet" in message


# Frames


def slice_of(*parts: Any) -> Any:
    return Call(Ref("builtins", "slice"), parts)


def block(values: Any, positions: Any) -> Any:
    return Call(Ref("pandas._libs.internals", "_unpickle_block"), (values, positions, 2))


def index(data: Any, kind: str = "Index") -> Any:
    return Call(
        Ref("pandas.core.indexes.base", "_new_Index"), (Ref("pandas", kind), {"data": data, "name": None})
    )


def objects(*cells: Any) -> Any:
    return array((len(cells),), dtype("O8"), list(cells))


def frame(blocks: Any, axes: Any) -> Any:
    manager = Call(Ref("pandas.core.internals.managers", "BlockManager"), (tuple(blocks), list(axes)))
    return Call(FRAME, (), {"_mgr": manager}, b"\x81")


def backed(kind: str, state: Any) -> Any:
    function = Ref("pandas._libs.arrays", "__pyx_unpickle_NDArrayBacked")
    return Call(function, (Ref("pandas", kind), 0, None), state)


def categorical(codes: bytes, categories: Any) -> Any:
    kind = Call(Ref("pandas", "CategoricalDtype"), (), {"categories": categories, "ordered": False}, b"\x81")
    return backed("Categorical", (kind, array((len(codes),), dtype("i1"), codes)))


def masked(values: Any, mask: Any) -> Any:
    return Call(Ref("pandas.arrays", "IntegerArray"), (), {"_data": values, "_mask": mask}, b"\x81")


ROW = array((1, 2), dtype("O8"), ["a", "b"])
TEXT = index(objects("text"))
FIRST = slice_of(0, 1, 1)
ENDLESS = {"name": None, "start": 0, "stop": 2**40, "step": 1}
FRAMES: dict[str, Any] = {
    "no-blocks": frame([], [TEXT]),
    "no-axes": frame([block(ROW, FIRST)], []),
    "two-blocks-at-one-place": frame([block(ROW, FIRST), block(ROW, FIRST)], [TEXT]),
    "a-place-beyond": frame([block(ROW, slice_of(1, 2, 1))], [TEXT]),
    "too-many-places": frame([block(ROW, slice_of(0, 2, 1))], [TEXT]),
    "places-without-end": frame([block(ROW, slice_of(0, 2**31 - 1, 1))], [TEXT]),
    "negative-places": frame([block(ROW, slice_of(-1, 0, 1))], [TEXT]),
    "step-zero": frame([block(ROW, slice_of(0, 1, 0))], [TEXT]),
    "places-that-are-floats": frame([block(ROW, array((1,), dtype("f8"), b"\x00" * 8))], [TEXT]),
    "places-that-are-objects": frame([block(ROW, objects(0))], [TEXT]),
    "labels-of-two-dimensions": frame(
        [block(ROW, FIRST)], [index(array((2, 1), dtype("O8"), ["text", "x"]))]
    ),
    "labels-without-end": frame(
        [block(ROW, FIRST)],
        [Call(Ref("pandas.core.indexes.base", "_new_Index"), (Ref("pandas", "RangeIndex"), ENDLESS))],
    ),
    "null-labels-without-end": frame(
        [block(ROW, FIRST)],
        [index(Call(Ref("pandas.arrays", "ArrowStringArray"), (), {"_pa_array": ENDLESS_NULLS}))],
    ),
    "labels-on-levels": frame([block(ROW, FIRST)], [index(objects("text"), "MultiIndex")]),
    "an-index-that-is-none": frame([block(ROW, FIRST)], [["text"]]),
    "a-codes-beyond": frame([block(categorical(b"\x02", TEXT), FIRST)], [TEXT]),
    "a-codes-below": frame([block(categorical(b"\xfe", TEXT), FIRST)], [TEXT]),
    "a-category-of-names": frame([block(categorical(b"\x00", index(objects(FRAME))), FIRST)], [TEXT]),
    "a-mask-of-numbers": frame(
        [block(masked(array((1,), dtype("i1"), b"x"), array((1,), dtype("i1"), b"x")), FIRST)], [TEXT]
    ),
    "a-short-mask": frame(
        [block(masked(array((2,), dtype("i1"), b"xx"), array((1,), dtype("b1"), b"x")), FIRST)], [TEXT]
    ),
    "an-unknown-backed-array": frame([block(backed("DataFrame", (None, ROW)), FIRST)], [TEXT]),
    "a-backed-array-without-state": frame([block(backed("Categorical", ...), FIRST)], [TEXT]),
    "a-block-of-a-list": frame([block(["a", "b"], FIRST)], [TEXT]),
    "a-manager-that-is-a-dict": Call(FRAME, (), {"_mgr": {"axes": []}}, b"\x81"),
    "two-managers": Call(FRAME, (), Raw(b"}(" + 2 * (assembled("_mgr") + b"N") + b"u"), b"\x81"),
    "a-series-without-blocks": Call(Ref("pandas", "Series"), (), {"_mgr": None, "_name": None}, b"\x81"),
    "items-for-a-frame": Raw(assembled(frame([block(ROW, FIRST)], [TEXT])) + assembled("a") + b"Ns"),
}


def test_the_assembled_frame_would_be_good(tmp_path: Path) -> None:
    path = tmp_path / "rows.pkl"
    for values in (ROW, categorical(b"\x00\x00", TEXT)):
        path.write_bytes(pickled(frame([block(values, FIRST)], [TEXT]), 4))
        read(path)


@pytest.mark.parametrize("value", FRAMES.values(), ids=FRAMES)
def test_frames(tmp_path: Path, value: Any) -> None:
    refused(tmp_path / "rows.pkl", pickled(value, 4))


# P35 and P37 to P42


def laughs(depth: int) -> bytes:
    """Each list holds the one before it ten times."""
    layers = [b"0](" + b"h%c" % level * 10 + b"eq%c" % (level + 1) for level in range(depth)]
    return b"\x80\x02]" + assembled("lol") + b"aq\x00" + b"".join(layers) + b"."


def test_p35_billion_laughs(tmp_path: Path) -> None:
    assert "shared parts counted again" in refused(tmp_path / "rows.pkl", laughs(20))
    assert "structure" in refused(tmp_path / "rows.pkl", laughs(64))


def test_p35_many_references_to_one_text(tmp_path: Path) -> None:
    many = b"\x80\x02](" + assembled("x" * 10**6) + b"q\x00" + b"h\x00" * 10**7 + b"e."
    assert "shared texts counted again" in refused(tmp_path / "rows.pkl", many)


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02]q\x00h\x00a.",
        b"\x80\x02}q\x00" + assembled("text") + b"h\x00s.",
        b"\x80\x02]q\x00(h\x00ta.",
        b"\x80\x02" + assembled(FRAME) + b")\x81q\x00}" + assembled("_mgr") + b"h\x00sb.",
    ],
)
def test_p37_a_value_that_holds_itself(tmp_path: Path, content: bytes) -> None:
    assert "holds itself" in refused(tmp_path / "rows.pkl", content, DataError)


@pytest.mark.parametrize("protocol", range(6))
def test_p38_cut_short(tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps({"text": ["some words"] * 3, "label": [1, 300, 70_000]}, protocol)
    path = tmp_path / "rows.pkl"
    for length in range(1, len(content)):
        path.write_bytes(content[:length])
        with pytest.raises((DataError, UnsafeFileError)) as caught:
            read(path)
        # A length that is cut off can look like a frame or a number that nobody writes.
        assert "is cut short at byte" in str(caught.value) or ": byte " in str(caught.value)


def test_p38_a_payload_before_a_broken_tail(tmp_path: Path) -> None:
    broken = pickled(Call(Ref("os", "system"), ("true",)))[:-1]
    assert "the name 'os.system'" in refused(tmp_path / "rows.pkl", broken)
    assert "the name 'os.system'" in refused(tmp_path / "rows.pkl", broken + b"\xff\xff")


TABLES: dict[str, tuple[Any, str]] = {
    "P34-list-in-a-key-of-a-row": (
        [{"text": "a"}, Raw(b"}" + assembled((["a"],)) + b"Ns")],
        ":2: a key that is no text",
    ),
    "P34-list-in-a-key": (
        Raw(b"}" + assembled((["a"],)) + assembled(["b"]) + b"s"),
        "a list as a column's name",
    ),
    "P39-double-column": (
        Raw(b"}(" + 2 * (assembled("text") + assembled(["a"])) + b"u"),
        "more than one column",
    ),
    "P39-double-key-in-a-row": (
        Raw(b"](}(" + 2 * (assembled("text") + assembled("a")) + b"ue"),
        ":1: the same key twice",
    ),
    "P39-ragged": (
        {"text": ["a", "b"], "label": [1]},
        ":2:label: no value in this row, but the column 'text' has 2",
    ),
    "P39-bytes": ({"text": ["a", b"b"]}, ":2:text: bytes, expected a text"),
    "P39-number": ({"text": ["a", 7]}, ":2:text: a number, expected a text"),
    "P39-none": ({"text": ["a", None]}, ":2:text: null, expected a text"),
    "P39-list": ({"text": ["a", ["b"]]}, ":2:text: a list, expected a text"),
    "P39-dict": ({"text": ["a", {"b": 1}]}, ":2:text: an object, expected a text"),
    "P39-date": (
        {"text": [Call(Ref("datetime", "date"), (b"\x07\xe4\x01\x01",))]},
        ":1:text: a date, expected a text",
    ),
    "P39-column-name": (Raw(b"}N" + assembled(["a"]) + b"s"), "null as a column's name"),
    "P39-missing-key": (
        [{"text": "a"}, {"label": "b"}],
        ":2:text: no such key in this row, which has 'label'",
    ),
    "P39-no-rows": ({"text": []}, "no rows, expected at least one"),
    "P39-no-columns": ({}, "no columns, expected texts"),
    "P39-no-text": ({"review": ["a"]}, "no column 'text'; found 'review'"),
    "P39-surrogate": ({"text": [Raw(b"V\\ud800\n")]}, ":1:text: half of a surrogate pair"),
}


@pytest.mark.parametrize(("value", "message"), TABLES.values(), ids=TABLES)
def test_p39_tables_that_are_wrong(tmp_path: Path, value: Any, message: str) -> None:
    assert message in refused(tmp_path / "rows.pkl", pickled(value, 4), DataError)


BENIGN, FOREIGN_PICKLE = pickle.dumps({"text": ["a"]}), pickled(Call(Ref("os", "system"), ("true",)))


def zipped(name: str = "data.pkl", content: bytes = FOREIGN_PICKLE) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, content)
    return out.getvalue()


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("data.pkl"))
    return out.getvalue()


ARCHIVES = {
    "P40-zip": zipped(),
    "P40-zip-flag-bits": zipped()[:6] + b"\x01" + zipped()[7:],
    "P40-zip-crc": zipped()[:14] + b"\x00\x00\x00\x00" + zipped()[18:],
    "P40-zip-names": zipped().replace(b"data.pkl", b"text.csv", 1),
    "P40-7z": b"7z\xbc\xaf'\x1c" + FOREIGN_PICKLE,
    "P40-tar": tarred(),
    **{
        f"P40-{kind}-{name}": content
        for kind, pack in (("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress))
        for name, content in {
            "foreign": pack(FOREIGN_PICKLE),
            "two-members": pack(BENIGN) + pack(BENIGN),
            "split-in-two": pack(BENIGN[:9]) + pack(BENIGN[9:]),
            "bytes-after-it": pack(BENIGN) + (b"\x00" * 9 if kind == "gz" else zipped()),
            "zip-inside": pack(zipped()),
        }.items()
    },
    "P41-pickle-and-zip": BENIGN + zipped(),
    "P41-foreign-and-zip": FOREIGN_PICKLE + zipped(),
    "P41-zip-in-front": zipped() + BENIGN,
    "P41-pickle-and-safetensors": b"\x80\x02\x00\x00\x00\x00\x00\x00" + b"{}",
}


@pytest.mark.parametrize("name", ["rows.pkl", "rows.csv", "rows.bin"])
@pytest.mark.parametrize("content", ARCHIVES.values(), ids=ARCHIVES)
def test_archives_and_polyglots(tmp_path: Path, content: bytes, name: str) -> None:
    refused(tmp_path / name, content)


@pytest.mark.parametrize(
    "name", ["rows.csv", "rows.tsv", "rows.json", "rows.jsonl", "rows.parquet", "rows.bin", "rows"]
)
@pytest.mark.parametrize("protocol", range(6))
def test_p42_wrong_suffixes(tmp_path: Path, name: str, protocol: int) -> None:
    refused(tmp_path / name, pickle.dumps({"text": ["a", Evil()]}, protocol))
    refused(tmp_path / name, pickle.dumps(Evil(), protocol))
