"""Bulk prediction: many input files give many output parts, in processes on this machine or on a Ray cluster."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

from leantune._version import __version__
from leantune.cluster.predict import ledger
from leantune.cluster.predict.lease import leased
from leantune.cluster.predict.ledger import Job, Manifest, Summary
from leantune.cluster.predict.parts import Part, find_parts, opened
from leantune.cluster.predict.worker import Failure, PartSettings, compute_here, prepare_here
from leantune.cluster.storage import Folder, find_files
from leantune.config.abstention_file import read_abstention
from leantune.data.label_sets import check_joinable
from leantune.data.text.columns import Columns, columns_for
from leantune.errors import DataError, DistributedError, LeantuneError, ResourceError
from leantune.evaluation.abstention import required_abstention
from leantune.inference.saved import SavedClassifier, read_saved

Compute: TypeAlias = Callable[[Sequence[Part], PartSettings], Generator[Manifest | Failure, None, None]]
"""Function that computes parts and yields their results as they end."""
RETRIES = 3
"""How often a part is repeated after its process died."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkOptions:
    """The user's options for a bulk prediction."""

    input: str
    """A file, a pattern or a folder on any storage."""
    output: str
    """A folder on any storage."""
    columns: Columns
    format: str = ".parquet"
    with_probabilities: bool = False
    submission: bool = False
    batch_size: int | None = None
    precision: str | None = None
    cluster: str | None = None
    """Ray cluster; None for processes on this machine."""
    workers: int = 1
    """Number of processes on this machine."""
    cores: int | None = None
    """Cores of each actor on a cluster; None for all cores of the smallest node."""
    resume: bool = False
    abstain: str | None = None
    """``overall`` or ``by-class`` to leave rows below the chosen threshold without a label; None to label all rows."""


def bulk_predict(
    run: Path, options: BulkOptions, *, on_part: Callable[[Summary, int], None] = lambda done, parts: None
) -> Summary:
    """Compute all missing parts.

    Args:
        run: a folder that `leantune.load` accepts.
        options: the user's options.
        on_part: called when a part is done, with the summary of the finished parts and the number of all parts.

    Raises:
        UsageError: if the output belongs to another job, another process uses it, or a storage cannot be reached.
        DataError: if a row is invalid; the message names the first one. All parts without such rows are computed.
        DistributedError: if the cluster cannot be reached, a node has another version, or processes die repeatedly.
        LeantuneError: see `leantune.load`.
    """
    folder = Folder(options.output)
    job, settings, parts = plan_job(read_saved(run), options)
    with opened(parts[0], settings.columns):
        pass  # report a missing column before anything is written
    with _computing(run, options) as compute:
        ledger.begin_job(folder, job, resume=options.resume)
        with leased(folder):
            there = ledger.done_parts(folder, parts, job)
            missing = [part for part in parts if part.number not in there]
            summary = Summary.of(job, there.values())
            if missing:
                with closing(compute(missing, settings)) as results:  # ends before the lease is released
                    summary = _collect(results, summary, len(parts), on_part)
            ledger.write_summary(folder, summary)
    return summary


def _collect(
    results: Iterator[Manifest | Failure],
    summary: Summary,
    parts: int,
    on_part: Callable[[Summary, int], None],
) -> Summary:
    """Add all results to the summary.

    Raises:
        LeantuneError: the error of a part. It is raised at once, except for invalid rows, after which the remaining
            parts are computed first.
    """
    failures = []
    for result in results:
        if isinstance(result, Manifest):
            summary = summary.plus(result)
            on_part(summary, parts)
            continue
        failures.append(result)
        if not result.is_of_rows:
            break
    if failures:
        raise _error_of(failures, parts)
    return summary


def plan_job(saved: SavedClassifier, options: BulkOptions) -> tuple[Job, PartSettings, list[Part]]:
    """Return the job for the options and the files in the storage, the settings of its workers, and its parts.

    Raises:
        DataError: if there are no rows.
        UsageError: if there are no files, the format cannot represent the predictions, or no threshold was chosen.
    """
    files = find_files(options.input)
    parts = find_parts(files)
    if not parts:
        raise DataError("no rows, expected at least one", path=options.input)
    columns = columns_for(
        saved.settings,
        text_column=options.columns.text,
        text_pair_column=options.columns.text_pair,
        id_column=options.columns.id,
        skip_blank_rows=options.columns.skips_blank,
    )
    settings = PartSettings(
        output=options.output,
        columns=replace(columns, label=None),  # labels are not read
        format=options.format,
        with_probabilities=options.with_probabilities,
        submission=options.submission,
        batch_size=options.batch_size or saved.settings.batch_size,
        precision=options.precision,
        abstention=required_abstention(read_abstention(saved.source), saved.source)
        if options.abstain
        else None,
        by_class=options.abstain == "by-class",
    )
    layout = settings.layout(saved.label_map, None)
    if saved.is_multi_label and options.format in (".csv", ".tsv"):
        check_joinable(saved.labels)
    if options.format == ".parquet":
        _ = layout.types  # raises an error for labels that Parquet cannot represent
    described = asdict(settings)
    described["abstention"] = json.dumps(described["abstention"], sort_keys=True)
    del described["columns"]["splits_labels"]
    described["skips_blank"] = described["columns"].pop("skips_blank")
    job = Job(
        leantune=__version__,
        classifier=f"{saved.sha256} {saved.encoder_sha256}",
        columns=described.pop("columns"),
        settings={name: value for name, value in described.items() if name not in ("output", "job")},
        inputs=files,
        parts=len(parts),
    )
    return job, replace(settings, job=job.fingerprint), parts


@contextmanager
def _computing(run: Path, options: BulkOptions) -> Iterator[Compute]:
    """Yield the function that computes parts, valid while the block runs.

    Raises:
        DistributedError: if the cluster cannot be reached, or has no node with enough cores.
    """
    if options.cluster is None:
        yield partial(_compute_here, run, options.workers)
        return
    from leantune.cluster.connection import connected
    from leantune.cluster.predict.ray_parts import compute_on_ray, count_actors
    from leantune.cluster.shipping import pack_classifier

    with connected(options.cluster) as nodes:
        cores = options.cores or max(1, int(min(node.cores for node in nodes if node.cores)))
        actors = count_actors(nodes, cores)
        yield partial(compute_on_ray, pack_classifier(run), actors, cores)


def _compute_here(
    run: Path, workers: int, parts: Sequence[Part], settings: PartSettings
) -> Generator[Manifest | Failure, None, None]:
    from leantune.cluster.processes import in_processes

    ends = in_processes(
        compute_here,
        parts,
        workers=min(workers, len(parts)),
        retries=RETRIES,
        prepare=prepare_here,
        arguments=(run, settings),
    )
    with closing(ends):
        for end in ends:
            if isinstance(end.error, BrokenProcessPool):
                raise DistributedError(
                    f"part {end.task.number} ({end.task.file.url}): its process died {end.attempts} times, perhaps for "
                    "lack of memory: use fewer --workers or a smaller --batch-size, then continue with --resume"
                )
            if end.error is not None:
                raise end.error
            assert end.result is not None
            yield end.result


def _error_of(failures: Sequence[Failure], parts: int) -> LeantuneError:
    """Return the error of the first failure by number; failures of disk or cluster take precedence over rows."""
    first = min(failures, key=lambda each: (each.is_of_rows, each.number))
    kinds = (DataError, ResourceError, DistributedError)
    kind = next((each for each in kinds if each.exit_code == first.exit_code), LeantuneError)
    error = kind(
        f"{first.message}; {len(failures)} of {parts} parts failed, and finished parts are kept: fix the problem, then "
        "continue with --resume"
    )
    error.exit_code = first.exit_code
    return error
