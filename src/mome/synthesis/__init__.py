"""Synthetic clips: a talking mouth that says a GRID sentence (``pip install 'mome[synthesis]'``)."""

from mome.synthesis.clip import SyntheticClip, synthesize
from mome.synthesis.espeak import VOICES, Phoneme
from mome.synthesis.write import write_clip

__all__ = ["VOICES", "Phoneme", "SyntheticClip", "synthesize", "write_clip"]
