"""The process that is attacked: it has imported everything, trains a run, and forks for each attack.

    python tests/attacks/victim.py BASE RESULTS PROCESSES

Attacks are lines on standard input: ``known NUMBER`` or ``chance COUNT SEED NUMBER``.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["OMP_NUM_THREADS"] = "1"  # a process that forks must have no other threads
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("LEANTUNE_NATIVE", "0")

from attacks.box import CANARY, Attack, Box

SECONDS, PROCESSOR_SECONDS = 60, 30
MEMORY_MIB = 2500
MESSAGE_CHARACTERS = 5000
IMPORTED = (
    "leantune.cli.main", "leantune.inference.engines.choose", "leantune.inference.export.formats", "leantune.report",
    "leantune.cli.output", "leantune.training.run", "transformers.models.auto.modeling_auto",
    "transformers.models.bert.modeling_bert", "transformers.models.auto.tokenization_auto", "peft",
)  # fmt: skip
"""Before the first attack, so that none waits for it."""


def make(base: Path) -> None:
    from leantune.cli.main import main
    from tiny import save_tiny_encoder, words_of, write_rows

    inputs = base / "inputs"
    inputs.mkdir(parents=True)
    save_tiny_encoder(inputs / "encoder")
    write_rows(inputs / "train.csv", 160)
    write_rows(inputs / "test.csv", 40, seed=1)
    words = words_of(inputs, base / "run", save_every=4)
    (base / "words.txt").write_text("\n".join(word for word in words if not word.startswith("output=")))
    assert main(["train", *words]) == 0
    command = ["predict", str(base / "run"), "--input", str(inputs / "test.csv")]
    assert main([*command, "--output", str(base / "predictions.csv")]) == 0


@dataclass(slots=True)
class Attempt:
    """An attack under way."""

    attack: Attack
    root: Path
    child: int
    started: float

    @classmethod
    def begin(cls, attack: Attack, base: Path) -> Attempt:
        root = Path(tempfile.mkdtemp(prefix="attack-"))
        (root / "outside").mkdir()
        (root / "outside" / "canary").write_text(CANARY)
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            _run(attack, Box(root, base, _main), root)
        return cls(attack, root, child, started)

    def ended(self) -> dict[str, object] | None:
        """What came of it, or None while it is under way."""
        is_late = time.monotonic() - self.started > SECONDS
        if is_late:
            os.kill(self.child, signal.SIGKILL)
        done, status, used = os.wait4(self.child, 0 if is_late else os.WNOHANG)
        if not done:
            return None
        code, mib = os.waitstatus_to_exitcode(status), used.ru_maxrss // 1024
        why = _why_not_held(self.attack, self.root, code, is_late, mib)
        shutil.rmtree(self.root, ignore_errors=True)
        return {
            "group": self.attack.group, "name": self.attack.name, "held": not why, "code": code, "why": why,
            "seconds": round(time.monotonic() - self.started, 2), "mib": mib,
        }  # fmt: skip


def _main(arguments: list[str]) -> int:
    from leantune.cli.main import main

    return main(arguments)


def _run(attack: Attack, box: Box, root: Path) -> None:
    """In the child: prepare, attack, look; never returns."""
    code = 99
    try:
        os.chdir(root)
        for number, name in ((1, "stdout"), (2, "prepared")):
            os.dup2(os.open(root / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_SECONDS, PROCESSOR_SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (20 * 2**30, 20 * 2**30))
        words = attack.prepare(box)
        (root / "stderr").touch()
        os.dup2(os.open(box.stderr or root / "stderr", os.O_WRONLY | os.O_TRUNC), 2)
        os.environ.update(box.environment)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = sys.__stderr__ = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        if os.path.exists("/proc/self/fd/0"):
            with open(root / "stdin", "wb") as file:
                file.write(box.stdin)
            os.dup2(os.open(root / "stdin", os.O_RDONLY), 0)
        else:
            sys.stdin = None
        try:
            code = _main(words)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            code = 1
            traceback.print_exc()
        sys.stdout.flush()
        why = attack.check(box)
        if why:
            (root / "why").write_text(why)
    except BaseException:
        (root / "broken").write_text(traceback.format_exc())
    finally:
        os._exit(code)


def _why_not_held(attack: Attack, root: Path, code: int, is_late: bool, used: int) -> str:
    if (root / "broken").exists():
        return "the attack itself is broken: " + (root / "broken").read_text().strip().splitlines()[-1]
    if is_late:
        return f"not done in {SECONDS} s"
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"not done in {PROCESSOR_SECONDS} s of the processor"
    said = (root / "stderr").read_text("utf-8", "replace") if (root / "stderr").exists() else ""
    outside = sorted(path.name for path in (root / "outside").iterdir())
    if (root / "outside" / "canary").read_text() != CANARY or "ran" in outside:
        return "something outside was changed"
    if "Traceback (most recent call last)" in said:
        return f"traceback, exit {code}: {said.strip().splitlines()[-1][:120]}"
    if code not in attack.codes:
        lines = said.strip().splitlines() or [""]
        return f"exit {code}, expected {' or '.join(map(str, attack.codes))}: {lines[-1][:120]}"
    if used > MEMORY_MIB:
        return f"{used:,} MiB of memory"
    errors = [line for line in said.splitlines() if line.startswith("leantune: error: ")]
    if code and len(errors) != 1 and said and "usage: " not in said:
        return f"{len(errors)} lines of errors"
    if len(said) > MESSAGE_CHARACTERS + 5000:
        return f"a message of {len(said):,} characters"
    if any(line for line in errors if not line.isprintable()):
        return "a message that a terminal obeys"
    if (root / "why").exists():
        return (root / "why").read_text()
    return ""


def serve(base: Path, results: Path, processes: int) -> None:
    import torch

    from attacks.catalogue import all_attacks
    from attacks.generated import generated

    torch.set_num_threads(1)
    for name in IMPORTED:
        importlib.import_module(name)
    maker = os.fork()
    if maker == 0:
        make(base)
        os._exit(0)
    if os.waitpid(maker, 0)[1]:
        raise SystemExit("the run to attack could not be trained")
    known = all_attacks()
    chance: dict[tuple[int, int], list[Attack]] = {}

    def attack_of(line: str) -> Attack:
        kind, *words = line.split()
        numbers = list(map(int, words))
        if kind == "known":
            return known[numbers[0]]
        count, seed, number = numbers
        return chance.setdefault((count, seed), list(generated(count, seed)))[number]

    waiting = [attack_of(line) for line in sys.stdin][::-1]
    under_way: list[Attempt] = []
    with results.open("w", encoding="utf-8") as file:
        while waiting or under_way:
            while waiting and len(under_way) < processes:
                under_way.append(Attempt.begin(waiting.pop(), base))
            for attempt in list(under_way):
                if ended := attempt.ended():
                    under_way.remove(attempt)
                    file.write(json.dumps(ended) + "\n")
            time.sleep(0.005)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
