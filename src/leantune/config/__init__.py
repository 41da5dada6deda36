"""Settings of users and files of runs: `recipe` and its loader `load`, and `record/` for ``record.json``.

Each of the other modules reads and writes one small JSON file of a run or beside its weights.
"""

from leantune.config.load import load_recipe, parse_overrides, recipe_of_run, shipped_recipes
from leantune.config.recipe import Recipe

__all__ = ["Recipe", "load_recipe", "parse_overrides", "recipe_of_run", "shipped_recipes"]
