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


def open_data(config: DataConfig, seed: int, share: Share, device: torch.device, eval_batch: int) -> Loader:
    root = config.root or os.environ.get("HARNESS_DATA")
    found = registry.load("data set", config.name, registry.DATA)(config, root)
    if config.name != "imagefolder":
        if config.loader not in ("auto", "resident"):
            raise HarnessError(f"data.loader {config.loader} is for image folders; {config.name} is held whole: 'auto'")
        return ResidentLoader(found, config, seed, share, device, eval_batch)
    decoder = _decoder(config, device)
    return ImageLoader(found, config, seed, share, device, eval_batch, decoder)


def _decoder(config: DataConfig, device: torch.device) -> Decoder:
    size, threads = image_size(config), config.threads
    if config.loader == "resident":
        raise HarnessError("data.loader resident cannot hold image folders: choose dali, torchvision or auto")
    if config.loader == "torchvision":
        from harness.data.torchvision_decoder import TorchvisionDecoder

        return TorchvisionDecoder(size, threads)
    from harness.data.dali import DaliDecoder

    return DaliDecoder(size, threads, device.index or 0 if device.type == "cuda" else None)
