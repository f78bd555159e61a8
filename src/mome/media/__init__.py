"""Media files to clips: sound, mouth crops, noise.

``load_clip(path)`` gives a :class:`Clip`; :mod:`mome.media.noise` mixes noise into its sound.
"""

from mome.media.clip import Clip, load_clip
from mome.media.decode import FRAME_RATE, SAMPLE_RATE
from mome.media.mouth import MOUTH_SIZE

__all__ = ["FRAME_RATE", "MOUTH_SIZE", "SAMPLE_RATE", "Clip", "load_clip"]
