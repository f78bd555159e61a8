"""Recipes and the Matryoshka training that they describe."""

from mome.training.build import load_config, model_config
from mome.training.layers import recipe_names
from mome.training.recipe import Recipe, load_recipe

__all__ = ["Recipe", "load_config", "load_recipe", "model_config", "recipe_names"]
