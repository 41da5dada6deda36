"""Install each wheel into a fresh environment in which no compiler can be found, and use it.

Run with the wheels as arguments, by a Python that has what they depend on: it lends its packages, but not its leantune.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

TESTS = Path(__file__).parents[1]

INPUTS = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tiny import save_tiny_encoder, write_rows
folder = Path(sys.argv[1])
save_tiny_encoder(folder / "encoder", hidden_size=64, num_attention_heads=2, intermediate_size=128)
write_rows(folder / "train.csv", 120)
"""

IMPORTED = """
import leantune, shutil, sys
assert not any(map(shutil.which, ("cc", "gcc", "clang", "cmake")))
print(leantune.__file__)
"""


def main(wheels: list[str]) -> None:
    """Try all of them; the first that fails ends it."""
    for wheel in wheels:
        with tempfile.TemporaryDirectory() as folder:
            said = try_wheel(Path(wheel).resolve(), Path(folder))
        print(f"{Path(wheel).name}: {Path(wheel).stat().st_size:,} bytes, trains and predicts: {said}")


def try_wheel(wheel: Path, folder: Path) -> str:
    """Who computed, according to the record of a run."""
    environment = folder / "environment"
    venv.create(environment, with_pip=False)
    packages = next((environment / "lib").glob("python*")) / "site-packages"
    lent = sysconfig.get_path("purelib")
    (packages / "lent.pth").write_text(f"{lent}\n")  # what is a path file there is not read again
    run = [
        sys.executable,
        "-m",
        "pip",
        "--quiet",
        "--python",
        str(environment),
        "install",
        "--no-deps",
        str(wheel),
    ]
    subprocess.run(run, check=True)
    bin_folder = environment / "bin"
    python = str(bin_folder / "python")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LEANTUNE_", "PYTHON"))}
    kept |= {"PATH": str(bin_folder), "LEANTUNE_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}

    def do(*command: str) -> str:
        done = subprocess.run(
            command, cwd=folder, env=kept, capture_output=True, text=True, errors="replace", check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    where = do(python, "-c", IMPORTED).strip()
    assert Path(where).is_relative_to(packages), f"{where} is not what was installed"
    do(python, "-c", INPUTS, str(folder), str(TESTS))
    recipe = {"data": "train.csv", "model": "encoder", "output": "run", "precision": "bf16", "epochs": 1}
    keys = (
        *(f"{key}={value}" for key, value in recipe.items()),
        "max_length=32",
        "init_rank=4",
        "target_rank=2",
    )
    printed = do(str(bin_folder / "leantune"), "train", *keys)
    do(str(bin_folder / "leantune"), "predict", "run", "--input", "train.csv", "--output", "predicted.csv")
    assert len((folder / "predicted.csv").read_text("utf-8").splitlines()) == 121
    kernels: str = json.loads((folder / "run" / "record.json").read_text("utf-8"))["hardware"]["kernels"]
    is_pure = wheel.name.endswith("-none-any.whl")
    expected = "torch: no kernels in this package" if is_pure else "native: "
    assert kernels.startswith(expected), kernels
    assert printed.count("native kernels are not used") == is_pure, printed
    return kernels


if __name__ == "__main__":
    main(sys.argv[1:])
