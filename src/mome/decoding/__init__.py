"""From clips to transcripts."""

from mome.decoding.recordings import people
from mome.decoding.transcriber import Transcriber, load

__all__ = ["Transcriber", "load", "people"]
