"""Media files to clips: sound, mouth crops, noise.

``load_clip(path)`` gives a :class:`Clip`; :mod:`mome.media.noise` mixes noise into its sound.
"""

from mome.clip import FRAME_RATE, MOUTH_SIZE, SAMPLE_RATE, Clip, Excerpt
from mome.media.reading import load_clip

__all__ = ["FRAME_RATE", "MOUTH_SIZE", "SAMPLE_RATE", "Clip", "Excerpt", "load_clip"]
