"""Transcripts, word errors, the texts beside clips, and the sentences of the GRID corpus."""
