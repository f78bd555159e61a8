"""Checkpoints of other programs to model folders of this package.

A converter (:mod:`avhubert`, :mod:`avsr`) reads the file with :func:`unpickle.read_checkpoint`, which runs none of the
code that a pickle may hold, checks names and shapes (:func:`fitting.checked`) before it writes, writes into
:func:`writing.new_folder`, and returns a :class:`writing.Account` of what became of every tensor. Published
recognisers: :mod:`avsr_file` says what a file is, :mod:`avsr_names` turns its names into ours, :mod:`avsr_backbones`
compares its frozen parts with their originals.
"""
