"""Some attacks of each group, each in a process of its own; ``python tests/attacks`` runs all of them and more."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from attacks.catalogue import all_attacks
from attacks.generated import generated

HERE = Path(__file__).parent


def test_the_attacks_of_the_short_form_hold():
    command = [sys.executable, str(HERE), "--short", "--count", "10"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "attacks held" in done.stdout


def test_an_attack_that_gets_through_is_found_out(tmp_path):
    """A leantune without its rule for names is seen to fail: the attacks can."""
    broken = shutil.copytree(HERE.parents[1] / "src", tmp_path / "src")
    path = broken / "leantune" / "system" / "file_names.py"
    path.write_text(
        path.read_text("utf-8") + "\n\ndef entry_of(folder, name):\n    return folder / name\n", "utf-8"
    )
    only = "'../../x' in adapter, adalora"
    command = [sys.executable, str(HERE), "--source", str(broken), "--only", only]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "0 of 1 attacks held" in done.stdout


def test_every_attack_has_a_name_of_its_own():
    names = Counter((attack.group, attack.name) for attack in all_attacks())
    assert max(names.values()) == 1
    assert len(names) > 400


def test_attacks_by_chance_are_the_same_for_the_same_seed():
    first, second = ([(a.group, a.name) for a in generated(20, seed)] for seed in (3, 3))
    assert first == second
