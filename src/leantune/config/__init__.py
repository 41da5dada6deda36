"""Recipe: what the user chose, and how it is read."""

from leantune.config.load import load_recipe, parse_overrides, recipe_of_run, shipped_recipes
from leantune.config.recipe import Recipe

__all__ = ["Recipe", "load_recipe", "parse_overrides", "recipe_of_run", "shipped_recipes"]
