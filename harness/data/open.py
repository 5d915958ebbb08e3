"""From a data section to the loader of one rank."""

from __future__ import annotations

import os

import torch

from harness.config import registry
from harness.config.schema import DataConfig
from harness.data.batches import Loader, Share
from harness.data.image_loader import Decoder, ImageLoader, image_size
from harness.data.resident import ResidentLoader
from harness.errors import HarnessError

GPUS = "/proc/driver/nvidia/gpus"
"""Lists all GPUs of a node, whichever of them this process may use."""


def open_data(config: DataConfig, seed: int, share: Share, device: torch.device, eval_batch: int) -> Loader:
    root = config.root or os.environ.get("HARNESS_DATA")
    found = registry.load("data set", config.name, registry.DATA)(config, root)
    if config.name != "imagefolder":
        if config.loader not in ("auto", "resident"):
            raise HarnessError(f"data.loader {config.loader} is for image folders; {config.name} is held whole: 'auto'")
        return ResidentLoader(found, config, seed, share, device, eval_batch)
    decoder = decoder_of(config, device)
    return ImageLoader(found, config, seed, share, device, eval_batch, decoder)


def decoder_of(config: DataConfig, device: torch.device) -> Decoder:
    size, threads, ahead = image_size(config), config.threads or node_threads(), config.prefetch
    if config.loader == "resident":
        raise HarnessError("data.loader resident cannot hold image folders: choose dali, torchvision or auto")
    if config.loader == "torchvision":
        from harness.data.torchvision_decoder import TorchvisionDecoder

        return TorchvisionDecoder(size, threads, ahead)
    from harness.data.dali import DaliDecoder

    return DaliDecoder(size, threads, ahead, device.index or 0 if device.type == "cuda" else None)


def node_threads() -> int:
    """Cores of this node for each process that trains on it: as many as it has GPUs, or as Ray Train started here."""
    n_gpus = len(os.listdir(GPUS)) if os.path.isdir(GPUS) else 0
    n_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, len(os.sched_getaffinity(0)) // max(1, n_gpus, n_here))
