"""A server of the OpenAI transcription API: `mome serve`.

The HTTP process (:mod:`mome.serving.app`) opens no recording and runs no model. Reading processes
(:mod:`mome.serving.reading`) cut recordings into parts, a model process (:mod:`mome.serving.model`) transcribes parts
of several recordings together, and the :class:`~mome.serving.service.Service` between them decides whose turn it is.
"""
