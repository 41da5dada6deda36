"""Load a PEFT adapter folder, ours or any other, into its base model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from leantune.adalora.adapter_file import AdapterFile, merge_into, read_adapter
from leantune.config.problem_type import MULTI_LABEL
from leantune.data.labels import LabelMap
from leantune.data.tokens.tokenization import TOKENIZER, Tokenizer
from leantune.errors import CheckpointError, UsageError
from leantune.model.build import load_pretrained, missing_head_parameters, skeleton_of
from leantune.model.classifier import Classifier
from leantune.model.hub import resolve_model
from leantune.model.pretrained import Pretrained
from leantune.system.damage import explained_damage


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """An adapter merged into its base model."""

    classifier: Classifier
    labels: LabelMap
    folder: Path
    """The folder of the adapter."""
    base: str
    """The folder of the base model."""

    @property
    def tokenizer_folder(self) -> Path:
        """The folder of its tokenizer."""
        return tokenizer_folder(self.folder, self.base)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, which truncates at the base model's last position."""
        return Tokenizer.saved(self.tokenizer_folder, longest=self.classifier.max_tokens)


def tokenizer_folder(adapter: Path, base: str) -> Path:
    """The folder of an adapter's tokenizer: its own folder, or that of its base model."""
    return adapter if (adapter / TOKENIZER).is_file() else Path(base)


def load_adapter(
    folder: str | Path,
    *,
    base: str | Path | None = None,
    labels: LabelMap | None = None,
    trust_remote_code: bool = False,
) -> LoadedAdapter:
    """Load a sequence classifier from any AdaLoRA or LoRA adapter of PEFT, merged, in fp32 on the CPU.

    Args:
        folder: folder with ``adapter_config.json`` and ``adapter_model.safetensors``.
        base: the pretrained encoder; None: the one that the adapter names.
        labels: names of the classes, which PEFT's folder does not hold; None: the base model's names if it has the same
            number of classes, else ``LABEL_0`` and so on.
        trust_remote_code: allow code that comes with the model.

    Raises:
        CheckpointError: if the folder is damaged, holds something else, does not fit ``base``, or a part of the head is
            in neither.
        UsageError: if the base model does not exist, or the number of ``labels`` differs from the number of classes.
    """
    folder = Path(folder)
    with explained_damage(folder):
        adapter = read_adapter(folder)
    source = resolve_model(base or adapter.base_model)
    pretrained = Pretrained.at(source, trust_remote_code=trust_remote_code)
    num_labels = count_classes(adapter, pretrained)
    labels = labels or labels_of_base(pretrained, num_labels)
    check_num_labels(folder, labels, num_labels)
    pretrained = Pretrained.at(source, num_labels=num_labels, trust_remote_code=trust_remote_code)
    classifier = load_pretrained(pretrained, labels)
    drawn = [name for name in missing_head_parameters(classifier, source) if name not in adapter.head]
    if drawn:
        raise CheckpointError(
            f"{folder}: neither the adapter nor {source} has {drawn[0]}"
            + (f" and {len(drawn) - 1} more tensors" if len(drawn) > 1 else "")
            + " of the head; when training with PEFT, name its modules in modules_to_save"
        )
    merge_into(classifier.named_weights(), adapter)
    return LoadedAdapter(classifier.eval(), labels, folder, source)


def labels_of_base(base: Pretrained, num_labels: int) -> LabelMap:
    """The class names in a base model's config if their number fits; else ``LABEL_0`` and so on."""
    names = tuple(base.config.id2label.values())
    is_own = len(names) == num_labels == len(set(names))
    names = names if is_own else tuple(f"LABEL_{i}" for i in range(num_labels))
    return LabelMap(names, getattr(base.config, "problem_type", None) == MULTI_LABEL)


def check_num_labels(folder: Path, labels: LabelMap, num_labels: int) -> None:
    """Refuse names whose number differs from the number of classes of the classifier in ``folder``.

    Raises:
        UsageError: naming both numbers.
    """
    if len(labels.names) != num_labels:
        raise UsageError(
            f"{folder}: a classifier of {num_labels} classes. Got {len(labels.names)} labels instead"
        )


def count_classes(adapter: AdapterFile, base: Pretrained) -> int:
    """The number of classes in the head of ``adapter``.

    Args:
        adapter: an adapter with its head.
        base: the base model; its number of labels does not matter.

    Raises:
        CheckpointError: if the adapter has no output layer, or one with a single output.
    """
    name = skeleton_of(base).output_name
    if f"{name}.weight" not in adapter.head:
        raise CheckpointError(
            f"the adapter holds no {name}: expected the adapter of a sequence classifier, with its head"
        )
    num_classes = adapter.head[f"{name}.weight"].shape[0]
    if num_classes < 2:
        raise CheckpointError(
            f"the adapter's {name} has one output, expected a classifier with two classes or more"
        )
    return num_classes
