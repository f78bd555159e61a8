"""Convert checkpoints of other programs to model folders of this package.

A converter (:mod:`avhubert`, :mod:`avsr`, :mod:`mms`) reads the file with :func:`unpickle.read_checkpoint`, which runs
no code of the pickle, checks names and shapes (:func:`fitting.checked`), writes into :func:`writing.new_folder`, and
returns a :class:`writing.Account` of all tensors. For Llama-AVSR and its successors, :mod:`avsr_file` finds the system
and its rates, :mod:`avsr_names` maps the published names to those of this package, and :mod:`avsr_backbones` compares
the frozen backbones with their own files.
"""
