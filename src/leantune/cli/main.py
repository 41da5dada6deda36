"""The commands. Each imports what it needs inside its function, so that ``--help`` is quick.

Results go to standard output; progress and errors to standard error.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leantune.cli.abstain import abstain
from leantune.cli.bulk_predict import bulk_predict, is_bulk
from leantune.cli.cluster_training import check_cluster_arguments, train_on_cluster
from leantune.cli.explain import explain_command
from leantune.cli.parser import keys_from_flags, parse, recipe_from
from leantune.cli.passport import passport_command
from leantune.cli.process import exit_code_of, prepare_process, report
from leantune.config import Recipe, load_recipe, parse_overrides
from leantune.config.problem_type import MULTI_LABEL
from leantune.errors import CheckpointError, UsageError
from leantune.system.file_names import entry_of
from leantune.system.memory import keep_freed_memory, use_huge_pages
from leantune.system.messages import shown
from leantune.system.openmp import has_int8_products, spin_briefly

if TYPE_CHECKING:
    from leantune.config.classifier_file import InferenceSettings
    from leantune.data.text.read import ExampleSource


TRAINING = ("train", "train-many", "search")
"""Commands that take training steps."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = parse(arguments)
    if os.name != "posix":
        return report(UsageError("leantune needs Linux or macOS; on Windows use WSL"), 2, debug=False)
    if options.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read by huggingface_hub when it is imported
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if options.command not in TRAINING:  # which do so where their products are in int8
        spin_briefly()
    keep_freed_memory()
    prepare_process()
    run = COMMANDS[options.command]
    return exit_code_of(lambda: run(options), debug=options.debug)


def _console(options: argparse.Namespace) -> Any:
    from leantune.system.console import console

    # torchrun numbers the processes; the first one speaks for all
    return console(stderr=True, quiet=options.quiet or os.environ.get("RANK", "0") != "0")


def _train(options: argparse.Namespace) -> None:
    use_huge_pages()
    check_cluster_arguments(options)
    recipe = _recipe_to_train(options)
    if options.cluster:
        train_on_cluster(options, recipe, _console(options))
        return
    if recipe.precision in ("auto", "int8") and has_int8_products():
        spin_briefly()  # before torch is imported
    from leantune.cli.output import print_result
    from leantune.report import write_model_card, write_report
    from leantune.system.distributed import barrier, is_main, process_group
    from leantune.training.run import run_training

    with process_group():
        folder = run_training(
            recipe, console=_console(options), overwrite=options.overwrite, resume=options.resume is not None
        )
        if is_main():
            write_model_card(folder)
            write_report(folder)
            print_result(folder)
        barrier()


def _train_many(options: argparse.Namespace) -> None:
    if has_int8_products():
        spin_briefly()
    from leantune.cli.train_many import train_many

    train_many(options)


def _search(options: argparse.Namespace) -> None:
    use_huge_pages()
    if has_int8_products():
        spin_briefly()
    from leantune.cli.search import search

    has_output = "output" in parse_overrides(options.overrides) or options.key_output is not None
    search(options, recipe_from(options), has_output)


def _recipe_to_train(options: argparse.Namespace) -> Recipe:
    """That of the words, or of the run to resume."""
    if options.resume:
        if options.recipe or options.overrides or options.overwrite or keys_from_flags(options):
            raise UsageError("--resume goes on with the recipe of the run; give nothing else")
        path = str(entry_of(Path(options.resume), "recipe.yaml"))
        if not os.path.isfile(path):
            from leantune.config.record.run import RECORD

            if not (Path(options.resume) / RECORD).is_file():
                raise UsageError(f"{options.resume}: no run to resume there (no {RECORD})")
            raise CheckpointError(f"{options.resume}: no recipe.yaml in it; put back what the run wrote")
        return load_recipe(path, {"output": options.resume})
    return recipe_from(options)


def _plan(options: argparse.Namespace) -> None:
    recipe = recipe_from(options)
    with _console(options).status("planning"):  # most of the time goes to imports
        from leantune.cli.output import print_plan
        from leantune.training.before.planning import plan

        planned = plan(recipe)
    print_plan(planned, as_json=options.json)


def _frontier(options: argparse.Namespace) -> None:
    from leantune.cli.frontier import frontier_command

    use_huge_pages()
    frontier_command(options, recipe_from(options), _console(options))


def _audit(options: argparse.Namespace) -> None:
    from leantune.cli.audit import audit_command

    use_huge_pages()
    audit_command(options, recipe_from(options), _console(options))


def _learning_curve(options: argparse.Namespace) -> None:
    from leantune.cli.learning_curve import learning_curve_command

    use_huge_pages()
    learning_curve_command(options, recipe_from(options), _console(options))


def _columns(options: argparse.Namespace, settings: InferenceSettings) -> Any:
    from leantune.data.text.read import Columns

    if options.text_pair_column and settings.takes_pairs is False:
        raise UsageError(
            "--text-pair-column: the classifier was trained on single texts, not on pairs; leave it out"
        )
    return Columns(
        text=options.text_column or settings.text_column,
        text_pair=options.text_pair_column or settings.text_pair_column,
        label=getattr(options, "label_column", None) or settings.label_column,
        id=getattr(options, "id_column", None),
        splits_labels=settings.problem_type == MULTI_LABEL,
    )


def _print_notes(source: ExampleSource, options: argparse.Namespace) -> None:
    for line in () if options.quiet else source.notes:
        print(line, file=sys.stderr)


def _trusts(options: argparse.Namespace) -> bool:
    return bool(options.trust_remote_code == "true")


def _engine(options: argparse.Namespace) -> Any:
    from leantune.inference.engines.choose import load_engine

    return load_engine(
        options.engine,
        Path(options.run_folder),
        precision=options.precision,
        trust_remote_code=_trusts(options),
    )


def _evaluate(options: argparse.Namespace) -> None:
    import json

    from leantune.assets.download import resolve_location
    from leantune.cli.output import print_metrics
    from leantune.data.text.read import open_examples
    from leantune.inference.evaluate import measure

    location = resolve_location(_rows(options, options.data, "--data"))
    trained = _engine(options)
    columns = _columns(options, trained.settings)
    source = open_examples(location, columns, labels="required", split="test")
    _print_notes(source, options)
    metrics = measure(trained, source, options.batch_size or trained.settings.batch_size)
    if options.json:
        print(json.dumps(metrics.to_json()))
    else:
        print_metrics(metrics)


def _predict(options: argparse.Namespace) -> None:
    from leantune.assets.download import resolve_location
    from leantune.data.text.read import open_examples
    from leantune.data.text.sources import files_of
    from leantune.evaluation.abstention import required_abstention
    from leantune.inference.predict import predict_to
    from leantune.inference.writers import PredictionLayout, check_output, open_writer

    given = _rows(options, options.input, "--input")
    if is_bulk(options, given):
        bulk_predict(options, given, _console(options))
        return
    if options.input is None and _is_text(given):
        _predict_text(options, given)
        return
    location = resolve_location(given)
    suffix = check_output(options.output, inputs=files_of(location), overwrite=options.overwrite)
    trained = _engine(options)
    source = open_examples(location, _columns(options, trained.settings), labels="ignore", split="test")
    _print_notes(source, options)
    layout = PredictionLayout(
        trained.labels,
        with_probabilities=options.probabilities,
        submission=options.submission,
        id_column=options.id_column or "id",
        abstention=required_abstention(trained.abstention, trained.source) if options.abstain else None,
        by_class=options.abstain == "by-class",
        thresholds=trained.thresholds,
    )
    with _console(options).status("classifying") as status:
        summary = predict_to(
            trained,
            source,
            options.output,
            writer=lambda path: open_writer(layout, path, suffix),
            batch_size=options.batch_size or trained.settings.batch_size,
            on_rows=lambda rows: status.update(f"classifying: {rows:,} rows"),
        )
    place = "standard output" if options.output == "-" else options.output
    notes = [f"{summary.truncated_rows:,} truncated to {trained.tokenizer.max_length} tokens"]
    if summary.empty_rows:
        notes.append(f"{summary.empty_rows:,} without text")
    if not options.quiet:
        print(f"{summary.rows:,} rows to {place} ({', '.join(notes)})", file=sys.stderr)


def _rows(options: argparse.Namespace, by_flag: str | None, flag: str) -> str:
    """The rows, which may be given by position or by flag."""
    given = [each for each in (options.rows, by_flag) if each is not None]
    if len(given) != 1:
        problem = (
            f"{options.rows} and {flag} {by_flag}: give one of them" if given else "no rows: give a file"
        )
        raise UsageError(f"{problem}, as in: leantune {options.command} {options.run_folder} rows.csv")
    return str(given[0])


def _is_text(word: str) -> bool:
    """Whether a text is meant, and no file: names of files that are not there seldom hold a space."""
    return " " in word.strip() and not os.path.lexists(word) and not glob(word)


def _predict_text(options: argparse.Namespace, text: str) -> None:
    from leantune.cli.output import print_probabilities

    for_files = {"--output": options.output != "-", "--probabilities": options.probabilities}
    for_files |= {
        "--abstain": bool(options.abstain),
        "--submission": options.submission,
        "--id-column": options.id_column,
    }
    if wrong := [flag for flag, is_given in for_files.items() if is_given]:
        raise UsageError(
            f"{wrong[0]} is for a file of rows, and there is no file {shown(text)}: leave it out to classify the text"
        )
    trained = _engine(options)
    print_probabilities(trained.predict_proba([text])[0], trained.labels.names, trained.thresholds)


def _serve(options: argparse.Namespace) -> None:
    try:
        from leantune.serving.server import serve
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("leantune"):
            raise
        raise UsageError(f"serve needs {error.name}: pip install 'leantune[serve]'") from error
    from leantune.cli.serving import print_ready, settings_from, start_log

    settings = settings_from(options)
    start_log(quiet=options.quiet)
    serve(settings, on_ready=print_ready)


def _export(options: argparse.Namespace) -> None:
    from leantune.inference.export.formats import export, export_int8
    from leantune.training.after.calibration_data import calibration_data

    run = Path(options.run_folder)
    if options.format == "openvino-int8":
        with _console(options).status("quantising"):
            folder, cost = export_int8(
                run,
                options.output,
                lambda: calibration_data(run, options.data, trust_remote_code=_trusts(options)),
                overwrite=options.overwrite,
                trust_remote_code=_trusts(options),
            )
        print(folder)
        print(cost)
        return
    if options.data:
        raise UsageError("--data is for --format openvino-int8; the other formats need no rows")
    folder = export(
        run,
        options.format,
        options.output,
        overwrite=options.overwrite,
        trust_remote_code=_trusts(options),
    )
    print(folder)


def _report_page(options: argparse.Namespace) -> None:
    from leantune.report import write_report

    print(write_report(Path(options.run_folder)))


def _push(options: argparse.Namespace) -> None:
    from leantune.report.push import files_to_push, push

    run = Path(options.run_folder)
    if options.dry_run:
        for name in ("README.md", *files_to_push(run)):
            print(name)
        return
    with _console(options).status("uploading"):
        address = push(run, options.repository, private=options.private)
    print(address)


def _assets(options: argparse.Namespace) -> None:
    from leantune.assets.download import DEFAULT_ASSETS, fetch

    names = [options.path] if options.path else DEFAULT_ASSETS
    with _console(options).status(f"fetching {', '.join(names)}"):
        paths = fetch(names)
    for name, path in paths.items():
        print(path if options.path else f"{name}\t{path}")


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "train": _train,
    "train-many": _train_many,
    "search": _search,
    "plan": _plan,
    "evaluate": _evaluate,
    "predict": _predict,
    "serve": _serve,
    "export": _export,
    "frontier": _frontier,
    "audit": _audit,
    "learning-curve": _learning_curve,
    "abstain": abstain,
    "passport": passport_command,
    "explain": explain_command,
    "report": _report_page,
    "push": _push,
    "assets": _assets,
}


if __name__ == "__main__":
    sys.exit(main())
