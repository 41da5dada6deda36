"""One run on the workers of a Ray cluster, by Ray Train: ``leantune train ... --cluster auto --num-workers 4``.

Each worker is one process of a leantune group, as torchrun would start it, so the run is the same to the bit. Ray puts
the workers on nodes and starts them again when one is lost; what they go on from is the newest checkpoint of leantune.
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
"""In the run folder, while the run goes on: what Ray Train writes for itself."""
STARTS = 10
"""How often Ray tries to start all workers, for a minute each, before it says that it cannot."""
LOOK_EVERY_S = 0.2
"""How often the command looks for lines, errors and signals."""
GRACE_S = 10.0
"""How long workers may take to end after an error of one of them."""


def train_on_cluster(
    recipe: Recipe,
    workers: Workers,
    *,
    console: Console,
    overwrite: bool = False,
    resume: bool = False,
) -> Path:
    """`run_training` on workers of a cluster, with report and model card; SIGINT and SIGTERM save a checkpoint first.

    The run folder, and the files that the recipe names, must be at the same path on all nodes.

    Args:
        recipe: what to do.
        workers: where.
        console: where the lines of the first worker are drawn.
        overwrite: replace an earlier run in the same folder.
        resume: go on from the newest valid checkpoint in the folder.

    Returns:
        the run folder.

    Raises:
        UsageError: if Ray is not installed, or the address is of a client, which is on no node.
        DistributedError: if there is no such cluster, it has too few cores, its nodes do not share the run folder, or
            workers were lost too often.
        LeantuneError: of a worker, as `run_training`.
    """
    if workers.cluster.startswith("ray://"):
        raise UsageError(
            f"--cluster {workers.cluster}: a client is on no node and sees no run folder; run the command on a node of "
            "the cluster, with --cluster auto"
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
            f"the cluster is busy: {free:g} cores are free, {needed} are needed: waiting", soft_wrap=True
        )


def _trainer(assignment: Assignment, workers: Workers) -> Any:
    # Ray Train looks at its workers every two seconds otherwise, which is how late it sees that they are done or lost
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
    """Train to the end, and be the terminal of the workers meanwhile.

    Raises:
        DistributedError: if workers were lost too often, or could not be started.
        LeantuneError: of a worker.
    """
    ended: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # told by the main thread
            ended.append(error)

    # in the main thread Ray would take the signals, and end without a checkpoint
    fitting = threading.Thread(target=fit, daemon=True)
    with interruptible() as interrupt:
        fitting.start()
        is_told, failed_at = False, None
        while fitting.is_alive():
            fitting.join(LOOK_EVERY_S)
            failure = _print_news(assignment.board, console)
            if failure is not None:
                failed_at = failed_at or time.monotonic()
                if time.monotonic() - failed_at > GRACE_S:  # the connection ends what is left
                    break
            if interrupt.signal_number is not None and not is_told:
                is_told = True
                _ask(assignment.board.stop, interrupt.signal_number)
                console.print(
                    "stopping: the workers save a checkpoint first; once more ends them at once",
                    soft_wrap=True,
                )
    failure = _print_news(assignment.board, console)
    if failure is not None:
        raise failure
    if ended:
        _explain(ended[0], assignment)


def _print_news(board: Any, console: Console) -> LeantuneError | None:
    """Print the lines of the workers; returns what is wrong with them."""
    lines, failure = _ask(board.news)
    for line in lines:
        console.print(line, soft_wrap=True)
    found: LeantuneError | None = failure
    return found


def _ask(method: Any, *arguments: Any) -> Any:
    return import_ray().get(method.remote(*arguments))


def _explain(error: BaseException, assignment: Assignment) -> None:
    """Raise what Ray Train says, in one line.

    Raises:
        DistributedError: naming the workers that were lost.
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
    """Why one worker ended: of a traceback the last line."""
    unanswered = getattr(error, "health_check_failure", None)  # where a worker answers no more
    if isinstance(unanswered, import_ray().exceptions.RayActorError):
        return "its process or its node died"
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
