"""From clips to transcripts."""

from mome.decoding.recordings import Interrupted, people
from mome.decoding.transcriber import Transcriber, load

__all__ = ["Interrupted", "Transcriber", "load", "people"]
