"""Export a trained classifier to other standard forms."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from leantune.adalora.adapter_file import merge_into, read_adapter
from leantune.adalora.export import write_lora
from leantune.config.classifier_file import FILE, read_classifier_file
from leantune.config.record.run import read_finished_record
from leantune.config.thresholds_file import FILE as THRESHOLDS
from leantune.data.labels import LabelMap
from leantune.data.tokens.tokenization import TOKENIZER
from leantune.errors import CheckpointError, UsageError
from leantune.inference.adapters import load_adapter
from leantune.inference.engines.onnx import FORMS as ONNX_FORMS
from leantune.inference.engines.openvino import FORMS
from leantune.inference.export.libraries import TOKENIZER_FILES
from leantune.inference.export.onnx import write_onnx
from leantune.inference.export.openvino import (
    AccuracyCost,
    CalibrationData,
    import_quantisation,
    write_int8,
    write_openvino,
)
from leantune.inference.load import artefact_of, kind_of
from leantune.model.pretrained import Pretrained, load_transformers, quiet_transformers
from leantune.system.atomic import atomic_folder
from leantune.system.checksums import describe_folder
from leantune.system.damage import explained_damage

FOLDERS = {form: f"export-{form}" for form in ("adalora", "lora", "merged")} | {
    form: form for form in (*FORMS, *ONNX_FORMS)
}
"""Folder of each format in a run; for other libraries, prediction looks for the folder named like the format."""


def export(
    source: Path, form: str, output: str | None, *, overwrite: bool = False, trust_remote_code: bool = False
) -> Path:
    """Write a classifier in another form.

    The forms are ``adalora`` and ``lora`` (PEFT), ``merged`` (plain transformers), ``openvino``, ``onnx`` and
    ``onnx-int8``.

    Args:
        source: a run, an adapter or a merged model that `load` accepts.
        form: one of the six; the two PEFT forms need an adapter.
        output: folder to write; None: in the run folder.
        overwrite: replace the folder in the run.
        trust_remote_code: allow code that comes with the model.

    Returns:
        the folder written.

    Raises:
        UsageError: if the folder exists, a plain LoRA should become AdaLoRA, or a library is not installed.
        CheckpointError: if ``source`` is damaged.
    """
    kind = kind_of(source)
    target = _target(source, form, output, overwrite=overwrite)
    if form == "openvino":
        with atomic_folder(target) as folder:
            write_openvino(folder, source, trust_remote_code=trust_remote_code)
        return target
    if form in ONNX_FORMS:
        with atomic_folder(target) as folder:
            write_onnx(folder, source, form, trust_remote_code=trust_remote_code)
        return target
    if form == "merged" and kind == "adapter":
        with atomic_folder(target) as folder:
            _write_merged(folder, source, trust_remote_code=trust_remote_code)
        return target
    part = {"adalora": "adapter", "lora": "adapter", "merged": "merged"}[form]
    own = artefact_of(source, part, trust_remote_code=trust_remote_code)
    if form != "merged":
        with explained_damage(own):
            adapter = read_adapter(own)
        if form == "adalora" and adapter.config.get("peft_type") == "LORA":
            raise UsageError(
                f"{source}: a plain LoRA adapter, which has no AdaLoRA form; use --format lora or merged"
            )
    with atomic_folder(target) as folder:
        for name in _files_of(source, own):
            shutil.copy2(own / name, folder / name)
        if form == "lora":
            _write_as_lora(folder, own)
    return target


def _files_of(source: Path, own: Path) -> Iterable[str]:
    """The files that the run wrote, or all files of a folder outside a run."""
    if kind_of(source) == "run":
        return read_finished_record(source).artefacts[own.name].files or describe_folder(own)
    return [path.name for path in own.iterdir() if path.is_file()]


def _write_merged(folder: Path, adapter_folder: Path, *, trust_remote_code: bool) -> None:
    """Write an adapter merged into its base model in transformers' format, with tokenizer and class names."""
    about = read_classifier_file(adapter_folder)
    named = None if about is None else LabelMap.of_file(about)
    loaded = load_adapter(adapter_folder, labels=named, trust_remote_code=trust_remote_code)
    base = Pretrained.at(loaded.base, trust_remote_code=trust_remote_code).with_labels(loaded.labels)
    drawn = (*loaded.classifier.head_names(), *loaded.classifier.pooler_names)
    model = load_transformers(base, may_lack=drawn)
    merge_into(dict(model.named_parameters()), read_adapter(adapter_folder))
    with quiet_transformers():
        model.save_pretrained(str(folder))
    holder = loaded.tokenizer_folder
    if (holder / TOKENIZER).is_file():
        for name in TOKENIZER_FILES:
            if (holder / name).is_file():
                shutil.copy2(holder / name, folder / name)
    else:  # an older tokenizer, which transformers converts
        loaded.tokenizer.save(folder)
    for name in (FILE, THRESHOLDS):
        if (adapter_folder / name).is_file():
            shutil.copy2(adapter_folder / name, folder / name)


def _write_as_lora(folder: Path, own: Path) -> None:
    """Write the AdaLoRA adapter ``own`` as LoRA, and check it by reading it back.

    Raises:
        CheckpointError: if the LoRA computes a different update.
    """
    # read ``own``, not its copy in ``folder``: tensors may be mapped from the file that is overwritten
    adapter = read_adapter(own)
    write_lora(folder, adapter)
    reread = read_adapter(folder)
    for name, triplets in adapter.modules.items():
        if triplets.rank and not torch.allclose(
            reread.modules[name].product() * reread.scaling, triplets.product() * adapter.scaling
        ):
            raise CheckpointError(
                f"{folder}: {name} computes a different update as LoRA. Please report this bug in leantune"
            )


def export_int8(
    source: Path,
    output: str | None,
    read_rows: Callable[[], CalibrationData],
    *,
    overwrite: bool = False,
    trust_remote_code: bool = False,
) -> tuple[Path, AccuracyCost]:
    """Write a classifier as ``openvino-int8``.

    Args:
        source: a run or a merged model.
        output: folder to write; None: in the run folder, where prediction looks for it.
        read_rows: called once everything else is checked.
        overwrite: replace the folder in the run.
        trust_remote_code: allow code that comes with the model.

    Returns:
        the folder written, and what int8 costs in accuracy.

    Raises:
        UsageError: if the folder exists, or OpenVINO or NNCF are not installed.
        CheckpointError: if the run is damaged.
    """
    artefact_of(source, "merged", trust_remote_code=trust_remote_code)
    target = _target(source, "openvino-int8", output, overwrite=overwrite)
    import_quantisation()
    rows = read_rows()
    with atomic_folder(target) as folder:
        return target, write_int8(folder, source, rows, trust_remote_code=trust_remote_code)


def _target(source: Path, form: str, output: str | None, *, overwrite: bool) -> Path:
    """The folder to write a form to; only folders in the run are ever replaced.

    Raises:
        UsageError: if the folder already exists.
    """
    if output is not None:
        if Path(output).exists():
            raise UsageError(f"output {output}: already exists; choose another folder or remove it")
        above = next(path for path in Path(output).absolute().parents if path.exists())
        if not above.is_dir():
            raise UsageError(f"output {output}: {above} is a file; choose another folder")
        return Path(output)
    if kind_of(source) != "run":
        raise UsageError(
            f"{source} is not a run folder, so the export has no default place: give --output FOLDER"
        )
    target = source / FOLDERS[form]
    if target.exists() and not overwrite:
        raise UsageError(f"output {target}: already exists; add --overwrite to replace it, or give --output")
    return target
