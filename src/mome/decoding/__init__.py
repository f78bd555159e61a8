"""From clips to transcripts."""

from mome.decoding.transcriber import Transcriber, load

__all__ = ["Transcriber", "load"]
