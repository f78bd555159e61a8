"""Synthetic clips of a mouth that speaks a GRID sentence (``pip install 'mome[synthesis]'``)."""

from mome.synthesis.clip import SyntheticClip, synthesize, write_clip
from mome.synthesis.espeak import VOICES, Phoneme

__all__ = ["VOICES", "Phoneme", "SyntheticClip", "synthesize", "write_clip"]
