"""What a user chose and what a run wrote: `recipe` and how it is read (`load`), `run_record` and its published
schema (`record_schema`, `in_schema`), `confidence_record`, `classifier_file`.
"""

from leantune.config.load import load_recipe, parse_overrides, recipe_of_run, shipped_recipes
from leantune.config.recipe import Recipe

__all__ = ["Recipe", "load_recipe", "parse_overrides", "recipe_of_run", "shipped_recipes"]
