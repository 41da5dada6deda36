"""The commands. Each imports what it needs inside its function, so that ``--help`` is quick.

Results go to standard output; progress and errors to standard error.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from leantune.atomic import disk_failure
from leantune.config import Recipe, load_recipe, parse_overrides, shipped_recipes
from leantune.errors import LeantuneError, ResourceError, UsageError

EXAMPLES = """examples:
  leantune train quickstart
  leantune train agnews-roberta data=train.csv model=./roberta-base max_trainable_params=999999
  leantune train --data train.csv --model ./minilm --max-trainable-params 100000 --output runs/mine
  leantune plan agnews-roberta-as-published model=./roberta-base
  leantune evaluate runs/mine --data test.csv
  leantune predict runs/mine --input new.csv --output predictions.csv
  leantune export runs/mine --format lora --output lora-adapter
  leantune export runs/mine --format openvino-int8
  leantune predict runs/mine --input new.csv --output predictions.csv --engine openvino-int8
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = parse(arguments)
    if options.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read by huggingface_hub when it is imported
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    run: Callable[[argparse.Namespace], None] = options.run
    return exit_code_of(lambda: run(options), debug=options.debug)


def exit_code_of(command: Callable[[], None], *, debug: bool = False) -> int:
    """Run ``command``; what goes wrong becomes one line on standard error and an exit code."""
    try:
        command()
    except LeantuneError as error:
        return _report(error, error.exit_code, debug)
    except MemoryError as error:
        return _report(ResourceError(_MEMORY_ADVICE), ResourceError.exit_code, debug, cause=error)
    except KeyboardInterrupt:
        return _report(LeantuneError("interrupted"), 130, debug=False)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        reason = disk_failure(error)
        if reason is None:
            raise
        place = f"{error.filename}: " if error.filename else ""
        return _report(ResourceError(f"{place}{reason}"), ResourceError.exit_code, debug, cause=error)
    except RuntimeError as error:
        if "out of memory" not in str(error).lower() and "can't allocate memory" not in str(error):
            raise
        return _report(ResourceError(_MEMORY_ADVICE), ResourceError.exit_code, debug, cause=error)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of one command line; key=value words may stand before, between and after flags."""
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    unknown = [word for word in rest if word.startswith("-") or not hasattr(options, "overrides")]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


_MEMORY_ADVICE = "out of memory: give a smaller --batch-size"  # training names its own keys


def _report(error: Exception, code: int, debug: bool, cause: BaseException | None = None) -> int:
    if debug:
        raise error from cause
    text = " ".join(str(error).split())
    print(f"leantune: error: {text}", file=sys.stderr)
    return code


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show a traceback with errors")
    common.add_argument("--offline", action="store_true", help="never ask a hub")
    parser = argparse.ArgumentParser(
        prog="leantune",
        description="Fine-tune text classifiers inside a parameter budget.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    from leantune import __version__

    parser.add_argument("--version", action="version", version=f"leantune {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_train, _add_plan, _add_evaluate, _add_predict, _add_export, _add_report, _add_assets):
        add(commands, common)
    return parser


def _add_train(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("train", parents=[common], help="train a classifier")
    _add_recipe_arguments(parser)
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an earlier run in the output folder"
    )
    parser.add_argument("--resume", metavar="RUN", help="go on with an interrupted run, bit for bit")
    parser.set_defaults(run=_train)


def _add_plan(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "plan", parents=[common], help="the ledger of parameters and the schedule, without loading weights"
    )
    _add_recipe_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_plan)


def _add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipe",
        nargs="?",
        help=f"a YAML file, or one of {', '.join(shipped_recipes())}; or none, with flags",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="any recipe key")
    keys = parser.add_argument_group("recipe keys, also as flags")
    for field in dataclasses.fields(Recipe):
        keys.add_argument(
            f"--{field.name.replace('_', '-')}",
            f"--{field.name}",
            dest=f"key_{field.name}",
            metavar="",
            help=field.metadata["doc"].replace("%", "%%"),
        )


def _add_evaluate(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("evaluate", parents=[common], help="measure a finished run on labelled rows")
    parser.add_argument("run_folder", metavar="RUN")
    parser.add_argument("--data", required=True, help="labelled rows")
    _add_column_arguments(parser)
    parser.add_argument("--label-column", help="column of the label")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_evaluate)


def _add_predict(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("predict", parents=[common], help="classify rows")
    parser.add_argument("run_folder", metavar="RUN")
    parser.add_argument("--input", required=True, help="rows to classify; - for standard input")
    parser.add_argument("--output", default="-", help=".csv .tsv .jsonl .parquet; - for standard output")
    _add_column_arguments(parser)
    parser.add_argument("--id-column", help="column to carry over as the id; default: the row number from 0")
    parser.add_argument("--probabilities", action="store_true", help="add a column p_LABEL for every class")
    parser.add_argument("--submission", action="store_true", help="write ID,label with whole-number labels")
    parser.add_argument("--overwrite", action="store_true", help="replace the output file")
    parser.set_defaults(run=_predict)


def _add_column_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--text-column", help="column of the text; default: as in training")
    parser.add_argument("--text-pair-column", help="column of the second text; default: as in training")
    parser.add_argument(
        "--batch-size", type=int, help="texts per batch; default: the recipe's eval_batch_size"
    )
    parser.add_argument(
        "--engine",
        choices=("torch", "openvino", "openvino-int8"),
        default="torch",
        help="what computes; those of OpenVINO must be exported first",
    )
    parser.add_argument("--precision", choices=("auto", "bf16", "fp16", "fp32"), help="default: the recipe's")


def _add_export(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("export", parents=[common], help="write another standard form of a run")
    parser.add_argument("run_folder", metavar="RUN")
    parser.add_argument(
        "--format", required=True, choices=("adalora", "lora", "merged", "openvino", "openvino-int8")
    )
    parser.add_argument("--output", help="folder to write; default: RUN/export-FORMAT, RUN/openvino[-int8]")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export in RUN")
    parser.add_argument(
        "--data", help="labelled rows to calibrate and measure int8 with; default: those of the run"
    )
    parser.set_defaults(run=_export)


def _add_report(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("report", parents=[common], help="write report.html of a run again")
    parser.add_argument("run_folder", metavar="RUN")
    parser.set_defaults(run=_report_page)


def _add_assets(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("assets", parents=[common], help="fetch the embedded default model and data")
    parser.add_argument("--path", metavar="NAME", help="print the folder of minilm or reuters-r8")
    parser.set_defaults(run=_assets)


def _recipe_from(options: argparse.Namespace) -> Recipe:
    words = list(options.overrides)
    source = options.recipe
    if source and "=" in source:
        words, source = [source, *words], None
    overrides: dict[str, Any] = dict(parse_overrides(words))
    for field in dataclasses.fields(Recipe):
        value = getattr(options, f"key_{field.name}")
        if value is not None:
            overrides[field.name] = value
    return load_recipe(source, overrides)


def _console() -> Any:
    from rich.console import Console

    # torchrun numbers the processes; the first one speaks for all
    return Console(stderr=True, quiet=os.environ.get("RANK", "0") != "0")


def _train(options: argparse.Namespace) -> None:
    from leantune.distributed import barrier, is_main, process_group
    from leantune.hardware import keep_freed_memory
    from leantune.report import write_model_card, write_report
    from leantune.terminal import print_result
    from leantune.training.run import run_training

    keep_freed_memory()

    if options.resume:
        flags = [f.name for f in dataclasses.fields(Recipe) if getattr(options, f"key_{f.name}") is not None]
        if options.recipe or options.overrides or flags:
            raise UsageError("--resume goes on with the recipe of the run; give nothing else")
        path = os.path.join(options.resume, "recipe.yaml")
        if not os.path.isfile(path):
            raise UsageError(f"{options.resume}: no run to resume there (no recipe.yaml)")
        recipe = load_recipe(path, {"output": options.resume})
    else:
        recipe = _recipe_from(options)
    with process_group():
        folder = run_training(
            recipe, console=_console(), overwrite=options.overwrite, resume=options.resume is not None
        )
        if is_main():
            write_model_card(folder)
            write_report(folder)
            print_result(folder)
        barrier()


def _plan(options: argparse.Namespace) -> None:
    from leantune.terminal import print_plan

    print_plan(_recipe_from(options), as_json=options.json)


def _columns(options: argparse.Namespace, recipe: Recipe) -> Any:
    from leantune.data.read import Columns

    return Columns(
        text=options.text_column or recipe.text_column,
        text_pair=options.text_pair_column or recipe.text_pair_column,
        label=getattr(options, "label_column", None) or recipe.label_column,
        id=getattr(options, "id_column", None),
    )


def _evaluate(options: argparse.Namespace) -> None:
    import json

    from leantune.data.assets import resolve_location
    from leantune.data.read import open_examples
    from leantune.hardware import keep_freed_memory
    from leantune.inference.engines import load_engine
    from leantune.inference.measure import measure
    from leantune.terminal import print_metrics

    keep_freed_memory()
    trained = load_engine(options.engine, Path(options.run_folder), precision=options.precision)
    columns = _columns(options, trained.recipe)
    source = open_examples(resolve_location(options.data), columns, labels="required", split="test")
    metrics = measure(trained, source, options.batch_size or trained.recipe.eval_batch_size)
    if options.json:
        print(json.dumps(metrics.to_json()))
    else:
        print_metrics(metrics)


def _predict(options: argparse.Namespace) -> None:
    from leantune.data.assets import resolve_location
    from leantune.data.read import open_examples
    from leantune.hardware import keep_freed_memory
    from leantune.inference.engines import load_engine
    from leantune.inference.predict import predict_to
    from leantune.inference.write import Layout, check_output, open_writer

    location = resolve_location(options.input)
    suffix = check_output(options.output, inputs=(location,), overwrite=options.overwrite)
    keep_freed_memory()
    trained = load_engine(options.engine, Path(options.run_folder), precision=options.precision)
    source = open_examples(location, _columns(options, trained.recipe), labels="ignore", split="test")
    layout = Layout(trained.labels, with_probabilities=options.probabilities, submission=options.submission)
    with _console().status("classifying") as status:
        summary = predict_to(
            trained,
            source,
            options.output,
            writer=lambda path: open_writer(layout, path, suffix),
            batch_size=options.batch_size or trained.recipe.eval_batch_size,
            on_rows=lambda rows: status.update(f"classifying: {rows:,} rows"),
        )
    place = "standard output" if options.output == "-" else options.output
    notes = [f"{summary.truncated_rows:,} truncated to {trained.tokeniser.max_length} tokens"]
    if summary.empty_rows:
        notes.append(f"{summary.empty_rows:,} without text")
    print(f"{summary.rows:,} rows to {place} ({', '.join(notes)})", file=sys.stderr)


def _export(options: argparse.Namespace) -> None:
    from leantune.inference.export import export_int8, export_run
    from leantune.training.rows_of_run import quantisation_rows

    run = Path(options.run_folder)
    if options.format == "openvino-int8":
        with _console().status("quantising"):
            folder, cost = export_int8(
                run,
                options.output,
                lambda: quantisation_rows(run, options.data),
                overwrite=options.overwrite,
            )
        print(folder)
        print(cost)
        return
    if options.data:
        raise UsageError("--data is for --format openvino-int8; the other formats need no rows")
    print(export_run(run, options.format, options.output, overwrite=options.overwrite))


def _report_page(options: argparse.Namespace) -> None:
    from leantune.report import write_report

    print(write_report(Path(options.run_folder)))


def _assets(options: argparse.Namespace) -> None:
    from leantune.data.assets import fetch

    if options.path:
        print(fetch([options.path])[options.path])
        return
    for name, path in fetch().items():
        print(f"{name}\t{path}")


if __name__ == "__main__":
    sys.exit(main())
