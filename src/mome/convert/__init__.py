"""Checkpoints of other programs to model folders of this package.

A converter reads the file with :func:`unpickle.read_checkpoint`, which runs none of the code that a pickle may hold,
checks names and shapes (:func:`fitting.checked`) before it writes, writes into :func:`folder.new_folder`, and
returns an :class:`account.Account` of what became of every tensor.
"""
