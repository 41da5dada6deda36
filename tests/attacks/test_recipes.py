"""Recipe files that are bombs, and the recipe of a run that was changed behind it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from attacks.inputs import BOMB, BOMBS
from leantune.cli.main import main

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2 * 2**30, 2 * 2**30))
from leantune.config import load_recipe
from leantune.errors import UsageError
try:
    load_recipe(sys.argv[1], {})
except UsageError as error:
    print(len(str(error)), error)
"""


@pytest.mark.parametrize(("text", "said"), BOMBS, ids=range(len(BOMBS)))
def test_a_bomb_is_one_short_line(tmp_path, text, said):
    path = tmp_path / "recipe.yaml"
    path.write_text(text, "utf-8")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert int(done.stdout.split()[0]) < 4000


@pytest.fixture(scope="module")
def copy(run, tmp_path_factory) -> Path:
    ignore = shutil.ignore_patterns("checkpoints")
    return Path(shutil.copytree(run, tmp_path_factory.mktemp("changed") / "run", ignore=ignore))


def predicted(run: Path, inputs: Path, output: Path) -> tuple[int, str]:
    code = main(
        ["predict", str(run), "--input", str(inputs / "test.csv"), "--output", str(output), "--overwrite"]
    )
    return code, output.read_text("utf-8") if output.exists() else ""


def test_what_stands_in_recipe_yaml_does_not_change_predictions(copy, run, inputs, tmp_path):
    expected = predicted(run, inputs, tmp_path / "expected.csv")
    recipe = yaml.safe_load((run / "recipe.yaml").read_text("utf-8"))
    for max_length in (3, 100_000):
        (copy / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "max_length": max_length}), "utf-8")
        assert predicted(copy, inputs, tmp_path / "found.csv") == expected
    (copy / "recipe.yaml").write_text(BOMB, "utf-8")
    assert predicted(copy, inputs, tmp_path / "found.csv") == expected
    (copy / "recipe.yaml").unlink()
    assert predicted(copy, inputs, tmp_path / "found.csv") == expected
    shutil.copy(run / "recipe.yaml", copy / "recipe.yaml")


@pytest.mark.parametrize("max_length", [3, 31, 100_000, -1, 10**30])
def test_another_length_in_the_record_is_found_out(copy, run, inputs, tmp_path, capsys, max_length):
    record = json.loads((run / "record.json").read_text("utf-8"))
    record["recipe"]["max_length"] = max_length
    (copy / "record.json").write_text(json.dumps(record), "utf-8")
    assert predicted(copy, inputs, tmp_path / "out.csv") == (5, "")
    assert "max_length" in capsys.readouterr().err or max_length in (3, 31)


@pytest.mark.parametrize("value", [{"data": "x"}, {"data": "x", "model": "m", "epochs": []}, {"nonsense": 1}])
def test_a_recipe_in_the_record_that_is_none_is_damage(copy, run, inputs, tmp_path, capsys, value):
    record = json.loads((run / "record.json").read_text("utf-8"))
    (copy / "record.json").write_text(json.dumps({**record, "recipe": value}), "utf-8")
    assert predicted(copy, inputs, tmp_path / "out.csv") == (5, "")
    assert "record.json: damaged: " in capsys.readouterr().err


def test_resuming_without_its_recipe_is_damage(copy, run, capsys):
    shutil.copy(run / "record.json", copy / "record.json")
    (copy / "recipe.yaml").unlink()
    assert main(["train", "--resume", str(copy)]) == 5
    assert "no recipe.yaml in it" in capsys.readouterr().err
    shutil.copy(run / "recipe.yaml", copy / "recipe.yaml")
