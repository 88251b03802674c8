"""The procedural dataset `mannequin`: 16 actions that only motion tells apart."""

from preprocessing.mannequin.dataset import generate

__all__ = ["generate"]
