"""Other standard forms of a finished run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from leantune.adalora.adapter_file import read_adapter
from leantune.adalora.export import write_lora
from leantune.config.run_record import read_finished_record
from leantune.errors import CheckpointError, UsageError
from leantune.inference.export.openvino import (
    AccuracyCost,
    QuantisationRows,
    import_quantisation,
    write_int8,
    write_openvino,
)
from leantune.inference.load import check_artefact
from leantune.inference.openvino import FORMS
from leantune.system.atomic import atomic_folder
from leantune.system.checksums import describe_folder
from leantune.system.damage import explained_damage

FOLDERS = {form: f"export-{form}" for form in ("adalora", "lora", "merged")} | {form: form for form in FORMS}
"""Format -> its folder in a run; prediction looks for those of OpenVINO under their own names."""


def export_run(
    run: Path, form: str, output: str | None, *, overwrite: bool = False, trust_remote_code: bool = False
) -> Path:
    """Write the run as ``adalora``, ``lora`` (both PEFT), ``merged`` (plain transformers) or ``openvino``.

    Returns:
        the folder written.

    Raises:
        UsageError: if the folder exists, a plain LoRA run is asked for its AdaLoRA, or OpenVINO is not
            installed.
        CheckpointError: if the run is damaged.
    """
    record = read_finished_record(run)
    target = _target(run, form, output, overwrite=overwrite)
    if form == "openvino":
        with atomic_folder(target) as folder:
            write_openvino(folder, run, trust_remote_code=trust_remote_code)
        return target
    if form == "adalora" and record["recipe"].get("method") == "lora":
        raise UsageError(f"{run}: trained with method=lora, there is no AdaLoRA of it; use lora or merged")
    part = {"adalora": "adapter", "lora": "adapter", "merged": "merged"}[form]
    own = check_artefact(run, record, part)
    if part == "adapter":
        with explained_damage(own):
            read_adapter(own)
    with atomic_folder(target) as folder:
        for name in record["artefacts"][part].get("files") or describe_folder(own):
            shutil.copy2(own / name, folder / name)
        if form == "lora":
            _write_as_lora(folder, own)
    return target


def _write_as_lora(folder: Path, own: Path) -> None:
    """Write the LoRA of the AdaLoRA adapter ``own``, and read it back.

    Raises:
        CheckpointError: if what is read back is another update.
    """
    # not of its copy in ``folder``: tensors may be the mapped file that is overwritten
    adapter = read_adapter(own)
    write_lora(folder, adapter)
    reread = read_adapter(folder)
    for name, triplets in adapter.modules.items():
        if triplets.rank and not torch.allclose(
            reread.modules[name].product() * reread.scaling, triplets.product() * adapter.scaling
        ):
            raise CheckpointError(
                f"{folder}: {name} is another update as LoRA. Report this as a bug of leantune"
            )


def export_int8(
    run: Path,
    output: str | None,
    read_rows: Callable[[], QuantisationRows],
    *,
    overwrite: bool = False,
    trust_remote_code: bool = False,
) -> tuple[Path, AccuracyCost]:
    """Write the run as ``openvino-int8``.

    Args:
        run: the run folder.
        output: folder to write; None: in the run folder, where prediction looks for it.
        read_rows: called when all else is known to be there.
        overwrite: replace the folder in the run.
        trust_remote_code: allow code that comes with the model.

    Returns:
        the folder written, and what int8 costs.

    Raises:
        UsageError: if the folder exists, or OpenVINO or NNCF are not installed.
        CheckpointError: if the run is damaged.
    """
    read_finished_record(run)
    target = _target(run, "openvino-int8", output, overwrite=overwrite)
    import_quantisation()
    rows = read_rows()
    with atomic_folder(target) as folder:
        return target, write_int8(folder, run, rows, trust_remote_code=trust_remote_code)


def _target(run: Path, form: str, output: str | None, *, overwrite: bool) -> Path:
    """Where a form goes; only a folder in the run, which is of leantune, is ever replaced.

    Raises:
        UsageError: if it is there already.
    """
    if output is not None:
        if Path(output).exists():
            raise UsageError(f"output {output}: exists already; choose another folder or remove it")
        above = next(path for path in Path(output).absolute().parents if path.exists())
        if not above.is_dir():
            raise UsageError(f"output {output}: {above} is a file; choose another folder")
        return Path(output)
    target = run / FOLDERS[form]
    if target.exists() and not overwrite:
        raise UsageError(f"output {target}: exists already; add --overwrite to replace it, or give --output")
    return target
