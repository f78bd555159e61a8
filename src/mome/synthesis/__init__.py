"""Synthetic clips of a mouth that speaks a GRID sentence (``pip install 'mome[synthesis]'``)."""

from mome.synthesis.espeak import VOICES, Phoneme
from mome.synthesis.talking import SyntheticClip, synthesize, write_clip

__all__ = ["VOICES", "Phoneme", "SyntheticClip", "synthesize", "write_clip"]
