"""What a user chose and what a run wrote: `recipe` and how it is read (`load`), `record/` for ``record.json``.

The other files are of small JSON files of a run and beside weights, a module each.
"""

from leantune.config.load import load_recipe, parse_overrides, recipe_of_run, shipped_recipes
from leantune.config.recipe import Recipe

__all__ = ["Recipe", "load_recipe", "parse_overrides", "recipe_of_run", "shipped_recipes"]
