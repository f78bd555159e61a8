"""Recipes and the Matryoshka training that they describe."""

from mome.training.recipe import Recipe, load_config, load_recipe

__all__ = ["Recipe", "load_config", "load_recipe"]
