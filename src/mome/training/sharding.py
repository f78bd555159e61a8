"""Frozen weights of the language model that the processes of a training share out, by FSDP2.

What is trained stays whole in every process, where DistributedDataParallel takes the mean of its gradients: so the
optimiser, the checkpoints and the number of processes that resumes a run are those of any other training.
"""

from __future__ import annotations

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from mome.adapters import decoder_layers
from mome.model import MomeForSpeechRecognition


def shard_frozen(model: MomeForSpeechRecognition, device: torch.device) -> None:
    """Share out the frozen weights of the language model's layers; all processes must call this.

    A layer's weights are put together where the layer is run, forward and backward, and let go of afterwards. The
    token embedding and the head stay whole, as code reads them outside of the language model's pass.

    Args:
        model: the recogniser, the same in all processes.
        device: of this process; the shares are moved there.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    layers = decoder_layers(model.language_model)
    trained = {value for value in layers.parameters() if value.requires_grad}
    for layer in layers:
        fully_shard(layer, mesh=mesh, ignored_params=trained)
    rest = set(model.language_model.parameters()) - set(layers.parameters())
    # A root without weights of its own: the layers' communication is in step with one another's.
    fully_shard(model.language_model.get_decoder(), mesh=mesh, ignored_params=rest | trained)


def wrap(model: MomeForSpeechRecognition, device: torch.device) -> DistributedDataParallel:
    """DistributedDataParallel for what :func:`shard_frozen` left whole."""
    shares = [name for name, value in model.named_parameters() if hasattr(value, "full_tensor")]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, shares)
    return DistributedDataParallel(
        model, device_ids=None if device.type == "cpu" else [device], find_unused_parameters=True
    )
