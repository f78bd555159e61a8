"""Recipes, and Matryoshka training by a recipe."""

from mome.training.build import load_config, model_config
from mome.training.loading import load_recipe, recipe_names
from mome.training.recipe import Recipe

__all__ = ["Recipe", "load_config", "load_recipe", "model_config", "recipe_names"]
