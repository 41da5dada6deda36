"""The only names that may occur in a pickle, each with one meaning for all library versions.

Names are matched exactly, never by prefix. A listed name is only a node: it is not imported, and a table that needs it
must have it in the right place. Names of things that contain no text or label (dates, formats, row indexes) are listed
so that tables that also have such parts can be read.
"""

from __future__ import annotations


def _names(package: str, modules: str, names: str) -> dict[tuple[str, str], str]:
    """Map each (module, name) to ``package.name``; modules and names are separated by spaces."""
    return {(module, name): f"{package}.{name}" for module in modules.split() for name in names.split()}


_NULLABLE = "Int8 Int16 Int32 Int64 UInt8 UInt16 UInt32 UInt64 Float32 Float64"
_NULLABLE_DTYPES = " ".join(f"{name}Dtype" for name in _NULLABLE.split())

KINDS: dict[tuple[str, str], str] = {
    # Python; the second module of a pair is its name in protocols 0 to 2.
    **_names("builtins", "builtins __builtin__", "object dict bytes bytearray slice set frozenset complex"),
    **_names("copyreg", "copyreg copy_reg", "_reconstructor"),
    **_names("codecs", "_codecs", "encode"),
    **_names("collections", "collections", "OrderedDict"),
    **_names("datetime", "datetime", "date datetime time timedelta timezone"),
    **_names("decimal", "decimal", "Decimal"),
    **_names("uuid", "uuid", "UUID SafeUUID"),
    **_names("pytz", "pytz", "_UTC _p"),
    # NumPy 1 has numpy.core, NumPy 2 numpy._core.
    **_names("numpy", "numpy", "ndarray dtype"),
    **_names("numpy", "numpy.core.multiarray numpy._core.multiarray", "_reconstruct scalar"),
    **_names("numpy", "numpy.core.numeric numpy._core.numeric", "_frombuffer"),
    **_names("numpy", "numpy._core._internal", "_convert_to_stringdtype_kwargs"),
    # pandas 1 and 2 use their internal modules, pandas 3 uses ``pandas``.
    **_names("pandas", "pandas.core.frame pandas", "DataFrame"),
    **_names("pandas", "pandas.core.series pandas", "Series"),
    **_names("pandas", "pandas.core.internals.managers", "BlockManager SingleBlockManager"),
    **_names("pandas", "pandas._libs.internals", "_unpickle_block"),
    **_names("pandas", "pandas._libs.arrays", "__pyx_unpickle_NDArrayBacked"),
    **_names("pandas", "pandas._libs.missing pandas", "NA"),
    **_names("pandas", "pandas.core.indexes.base", "_new_Index"),
    **_names("pandas", "pandas.core.indexes.base pandas", "Index"),
    **_names("pandas", "pandas.core.indexes.numeric", "Int64Index UInt64Index Float64Index"),
    **_names("pandas", "pandas.core.indexes.range pandas", "RangeIndex"),
    **_names("pandas", "pandas.core.indexes.multi pandas", "MultiIndex"),
    **_names("pandas", "pandas.core.indexes.category pandas", "CategoricalIndex"),
    **_names("pandas", "pandas.core.indexes.datetimes", "_new_DatetimeIndex"),
    **_names("pandas", "pandas.core.indexes.datetimes pandas", "DatetimeIndex"),
    **_names("pandas", "pandas.core.indexes.timedeltas", "_new_TimedeltaIndex"),
    **_names("pandas", "pandas.core.indexes.timedeltas pandas", "TimedeltaIndex"),
    **_names("pandas", "pandas.core.arrays.string_ pandas.arrays", "StringArray"),
    **_names("pandas", "pandas.core.arrays.string_ pandas", "StringDtype"),
    **_names("pandas", "pandas.core.arrays.string_arrow pandas.arrays", "ArrowStringArray"),
    **_names("pandas", "pandas.core.arrays.arrow.array pandas.arrays", "ArrowExtensionArray"),
    **_names("pandas", "pandas.core.arrays.arrow.dtype pandas.core.dtypes.dtypes pandas", "ArrowDtype"),
    **_names("pandas", "pandas.core.arrays.categorical pandas", "Categorical"),
    **_names("pandas", "pandas.core.arrays.integer pandas.arrays", "IntegerArray"),
    **_names("pandas", "pandas.core.arrays.floating pandas.arrays", "FloatingArray"),
    **_names("pandas", "pandas.core.arrays.boolean pandas.arrays", "BooleanArray"),
    **_names("pandas", "pandas.core.arrays.boolean pandas", "BooleanDtype"),
    **_names("pandas", "pandas.core.arrays.integer pandas.core.arrays.floating pandas", _NULLABLE_DTYPES),
    **_names("pandas", "pandas.core.arrays.datetimes pandas.arrays", "DatetimeArray"),
    **_names("pandas", "pandas.core.arrays.timedeltas pandas.arrays", "TimedeltaArray"),
    **_names("pandas", "pandas.core.dtypes.dtypes pandas", "CategoricalDtype DatetimeTZDtype"),
    **_names("pandas", "pandas._libs.tslibs.timestamps", "_unpickle_timestamp"),
    **_names("pandas", "pandas._libs.tslibs.nattype", "_nat_unpickle __nat_unpickle"),
    **_names("pandas", "pandas._libs.tslibs.offsets", "Day Hour Minute Second Milli Micro Nano Week"),
    # pyarrow
    **_names("pyarrow", "pyarrow.lib", "_restore_array chunked_array py_buffer type_for_alias dictionary"),
    **_names("pyarrow", "pyarrow.lib", "_reconstruct_table _reconstruct_record_batch schema field"),
    **_names("pyarrow", "pyarrow.lib", "list_ large_list struct timestamp duration time32 time64 decimal128"),
    # datasets
    **_names("datasets", "datasets.arrow_dataset", "Dataset"),
    **_names("datasets", "datasets.dataset_dict", "DatasetDict"),
    **_names("datasets", "datasets.info", "DatasetInfo"),
    **_names("datasets", "datasets.splits", "NamedSplit SplitDict SplitInfo"),
    **_names("datasets", "datasets.features.features", "Features Value ClassLabel Sequence List LargeList"),
    **_names("datasets", "datasets.features.translation", "Translation TranslationVariableLanguages"),
    **_names("datasets", "datasets.table", "InMemoryTable ConcatenationTable MemoryMappedTable"),
}
"""Meaning of each (module, name): ``("pandas.core.frame", "DataFrame")`` means ``"pandas.DataFrame"``."""
