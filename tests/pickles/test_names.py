"""Names that no table needs, wherever they stand and however they are spelled (P01 to P16, P19, P29, P42).

The names are real, but nothing is ever called, and the arguments would do no harm.
"""

from __future__ import annotations

import os
import pickle
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

ASSEMBLER = runpy.run_path(str(Path(__file__).with_name("assembler.py")))
Ref, Call, Raw = ASSEMBLER["Ref"], ASSEMBLER["Call"], ASSEMBLER["Raw"]
pickled, assembled = ASSEMBLER["pickled"], ASSEMBLER["assembled"]

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
def test_foreign_names(refused: Any, kind: str, module: str, name: str) -> None:
    for stack in (False, True):
        call = Call(Ref(module, name, stack), ("true",))
        for value in (call, {"text": ["a", call]}, Ref(module, name, stack), [Ref(module, name, stack)]):
            message = refused(pickled(value, 4))
            assert f"GLOBAL: the name '{module}.{name}', which no table needs" in message
            assert f"byte {pickled(value, 4).index(assembled(Ref(module, name, stack)))}" in message or stack


def test_dotted_names_below_an_allowed_module(refused: Any) -> None:
    for name in ("DataFrame.eval", "DataFrame.to_pickle", "DataFrame.__init__.__globals__"):
        for module in ("pandas.core.frame", "pandas"):
            refused(pickled(Call(Ref(module, name, stack=True), ("x",)), 4))


LOOK_ALIKES = [
    *(("оs", "system"), ("os\x00", "system"), (" os", "system"), ("os ", "system"), ("", ""), ("", "system")),
    *(("os", ""), ("pandas", "DataFrame "), ("pandas ", "DataFrame"), ("pandas\u200b", "DataFrame")),
    *(("pandas", "DataFrame\x00"), ("Pandas", "DataFrame"), ("pandas", "ＤataFrame")),
    *(("pandas\n", "DataFrame"), ("pandas DataFrame", ""), ("x" * 10**6, "y" * 10**6)),
]


@pytest.mark.parametrize(("module", "name"), LOOK_ALIKES, ids=range(len(LOOK_ALIKES)))
def test_p19_names_that_look_like_others(refused: Any, module: str, name: str) -> None:
    message = refused(pickled(Call(Ref(module, name, stack=True), ("true",)), 4))
    assert "which no table needs" in message
    if "\n" not in module:
        refused(pickled(Call(Ref(module, name), ("true",)), 2))


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
def test_payload_in_a_table(refused: Any, place: str, protocol: int) -> None:
    message = refused(pickle.dumps(with_evil()[place], protocol))
    assert "the name 'posix.system'" in message


@pytest.mark.parametrize(
    "name", ["rows.csv", "rows.tsv", "rows.json", "rows.jsonl", "rows.parquet", "rows.bin", "rows"]
)
@pytest.mark.parametrize("protocol", range(6))
def test_p42_wrong_suffixes(refused: Any, name: str, protocol: int) -> None:
    refused(pickle.dumps({"text": ["a", Evil()]}, protocol), name=name)
    refused(pickle.dumps(Evil(), protocol), name=name)
