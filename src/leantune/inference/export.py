"""Other standard forms of a finished run, made from its adapter."""

from __future__ import annotations

import shutil
from pathlib import Path

from leantune.adalora.adapter_file import CONFIG, WEIGHTS, merge_into, read_adapter
from leantune.adalora.export import write_lora
from leantune.atomic import atomic_folder
from leantune.data.labels import LabelMap
from leantune.errors import UsageError
from leantune.inference.load import read_record
from leantune.pretrained import config_of, load_pretrained, quiet_transformers
from leantune.sources import resolve_model


def export_run(run: Path, form: str, output: str | None) -> Path:
    """Write the run as ``adalora``, ``lora`` (both PEFT) or ``merged`` (plain transformers).

    Returns:
        the folder written.

    Raises:
        UsageError: if the folder exists, or a plain LoRA run is asked for its AdaLoRA.
        CheckpointError: if the run's adapter is damaged or does not fit its base model.
    """
    record = read_record(run)
    target = Path(output) if output else run / f"export-{form}"
    if target.exists():
        raise UsageError(f"output {target}: exists already; choose another folder or remove it")
    if form == "adalora" and record["recipe"].get("method") == "lora":
        raise UsageError(f"{run}: trained with method=lora, there is no AdaLoRA of it; use lora or merged")
    adapter = read_adapter(run / "adapter")
    with atomic_folder(target) as folder:
        for file in (run / "adapter").iterdir():
            if file.name not in (WEIGHTS, CONFIG, "README.md"):
                shutil.copy2(file, folder / file.name)
        if form == "adalora":
            for name in (WEIGHTS, CONFIG):
                shutil.copy2(run / "adapter" / name, folder / name)
        elif form == "lora":
            write_lora(folder, adapter)
        else:
            labels = LabelMap.from_json(record["labels"])
            source = resolve_model(record["model"]["source"])
            model = load_pretrained(source, config_of(source, num_labels=len(labels.names)), labels)
            merge_into(model, adapter)
            with quiet_transformers():
                model.save_pretrained(str(folder))
    return target
