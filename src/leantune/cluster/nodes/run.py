"""One run on the workers of a Ray cluster, with Ray Train: ``leantune train ... --cluster auto --num-workers 4``.

Each worker is one process of a process group, as under torchrun, so the results are bitwise equal. Ray places the
workers on nodes and restarts them when one is lost. They resume from leantune's newest checkpoint.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from leantune.cluster.connection import connected, import_ray
from leantune.cluster.nodes.board import Board
from leantune.cluster.nodes.placement import cores_of_each, shared_folder, without_cores_on
from leantune.cluster.nodes.settings import Workers
from leantune.cluster.nodes.worker import Assignment, run_id_of, train_worker
from leantune.config import Recipe
from leantune.errors import DistributedError, LeantuneError, UsageError
from leantune.system.messages import one_line
from leantune.training.before.folder import check_folder
from leantune.training.signals import interruptible

RAY_FOLDER = "ray"
"""Subfolder of the run folder for Ray Train's own files during the run."""
STARTS = 10
"""Number of attempts of Ray to start all workers, each of one minute, before it fails."""
LOOK_EVERY_S = 0.2
"""Seconds between checks of the command for lines, errors and signals."""
GRACE_S = 10.0
"""Seconds that workers may take to end after one of them failed."""


def train_on_cluster(
    recipe: Recipe,
    workers: Workers,
    *,
    console: Console,
    overwrite: bool = False,
    resume: bool = False,
) -> Path:
    """Train a run on the workers of a cluster, and write its report and model card.

    SIGINT and SIGTERM save a checkpoint first. The run folder and the files of the recipe must have the same path on
    all nodes.

    Args:
        recipe: the recipe of the run.
        workers: the cluster and its workers.
        console: console for the output of the first worker.
        overwrite: whether to replace an earlier run in the folder.
        resume: whether to resume from the newest valid checkpoint in the folder.

    Returns:
        The run folder.

    Raises:
        UsageError: if Ray is not installed, or the address is that of a Ray client.
        DistributedError: if the cluster cannot be reached, it has too few cores, its nodes do not share the run
            folder, or workers were lost too often.
        LeantuneError: an error of a worker; see `run_training`.
    """
    if workers.cluster.startswith("ray://"):
        raise UsageError(
            f"--cluster {workers.cluster}: Ray client addresses are not supported for training, because the client "
            "does not share the run folder; run the command on a node of the cluster with --cluster auto"
        )
    folder = Path(os.path.expanduser(recipe.output))
    check_folder(folder, overwrite=overwrite, resume=resume)
    ray = import_ray()
    with connected(workers.cluster) as nodes, shared_folder(folder, nodes, leftovers=(RAY_FOLDER,)):
        cores = cores_of_each(nodes, workers.num_workers, workers.cores_per_worker)
        here = ray.get_runtime_context().get_node_id()
        board = ray.remote(Board).options(**without_cores_on(here)).remote()
        assignment = Assignment(
            recipe=recipe,
            overwrite=overwrite,
            resume=resume,
            earlier_run=run_id_of(folder),
            directory=os.getcwd(),
            command=tuple(sys.argv),
            cores=cores,
            quiet=console.quiet,
            flags=workers.flags(),
            board=board,
        )
        _say_if_busy(ray, workers, cores, console)
        _fit(_trainer(assignment, workers), assignment, console)
    return folder


def _say_if_busy(ray: Any, workers: Workers, cores: int, console: Console) -> None:
    free, needed = ray.available_resources().get("CPU", 0.0), workers.num_workers * cores
    if free < needed:
        console.print(
            f"waiting for free cores: {needed} needed, {free:g} free in the cluster", soft_wrap=True
        )


def _trainer(assignment: Assignment, workers: Workers) -> Any:
    # By default, Ray Train checks its workers every two seconds, which delays the end of the run.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    environment = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(assignment.cores)}
    environment |= {name: os.environ[name] for name in ("HF_HUB_OFFLINE",) if name in os.environ}
    return TorchTrainer(
        train_worker,
        train_loop_config={"assignment": assignment},
        torch_config=TorchConfig(backend="gloo", timeout_s=600),
        scaling_config=ScalingConfig(
            num_workers=workers.num_workers,
            resources_per_worker={"CPU": assignment.cores},
            placement_strategy="SPREAD",
        ),
        run_config=RunConfig(
            name=RAY_FOLDER,
            storage_path=str(assignment.folder.absolute()),
            failure_config=FailureConfig(max_failures=workers.max_failures, controller_failure_limit=STARTS),
            worker_runtime_env={"env_vars": environment},
        ),
    )


def _fit(trainer: Any, assignment: Assignment, console: Console) -> None:
    """Train to the end, and print the output of the workers.

    Raises:
        DistributedError: if workers were lost too often, or could not be started.
        LeantuneError: an error of a worker.
    """
    ended: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # reported by the main thread
            ended.append(error)

    # In the main thread, Ray would handle the signals and end without a checkpoint.
    fitting = threading.Thread(target=fit, daemon=True)
    with interruptible() as interrupt:
        fitting.start()
        is_told, failed_at = False, None
        while fitting.is_alive():
            fitting.join(LOOK_EVERY_S)
            failure = _print_news(assignment.board, console)
            if failure is not None:
                failed_at = failed_at or time.monotonic()
                if time.monotonic() - failed_at > GRACE_S:  # closing the connection ends the workers
                    break
            if interrupt.signal_number is not None and not is_told:
                is_told = True
                _ask(assignment.board.stop, interrupt.signal_number)
                console.print(
                    "stopping: the workers save a checkpoint first; a second signal stops them at once",
                    soft_wrap=True,
                )
    failure = _print_news(assignment.board, console)
    if failure is not None:
        raise failure
    if ended:
        _explain(ended[0], assignment)


def _print_news(board: Any, console: Console) -> LeantuneError | None:
    """Print the lines of the workers, and return their error or None."""
    lines, failure = _ask(board.news)
    for line in lines:
        console.print(line, soft_wrap=True)
    found: LeantuneError | None = failure
    return found


def _ask(method: Any, *arguments: Any) -> Any:
    return import_ray().get(method.remote(*arguments))


def _explain(error: BaseException, assignment: Assignment) -> None:
    """Raise an error of Ray Train with a message of one line.

    Raises:
        DistributedError: if workers were lost or could not be started.
    """
    from ray.train import TrainingFailedError, WorkerGroupError

    if isinstance(error, WorkerGroupError):
        reasons = "; ".join(
            f"worker {rank}: {_reason(e)}" for rank, e in sorted(error.worker_failures.items())
        )
        advice = f"continue with: {assignment.resume_command(assignment.folder)}"
        raise DistributedError(f"workers were lost too often ({reasons}); {advice}") from error
    if isinstance(error, TrainingFailedError | import_ray().exceptions.RayError):
        raise DistributedError(f"the workers could not be started: {one_line(error)}") from error
    raise error


def _reason(error: BaseException) -> str:
    """Return why one worker ended: the last line of its traceback."""
    unanswered = getattr(error, "health_check_failure", None)  # set if a worker does not respond
    if isinstance(unanswered, import_ray().exceptions.RayActorError):
        return "its process or node died"
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
