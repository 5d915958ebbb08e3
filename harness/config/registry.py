"""Names and where they live. Nothing here imports what it names until it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from harness.errors import HarnessError

METHODS: dict[str, str] = {
    "dense": "harness.sparse.method:Method",
    "static": "baselines.static:Static",
    "magnitude": "baselines.magnitude:Magnitude",
    "snip": "baselines.snip:SNIP",
    "grasp": "baselines.grasp:GraSP",
    "synflow": "baselines.synflow:SynFlow",
    "iter_snip": "baselines.force:IterativeSNIP",
    "force": "baselines.force:FORCE",
    "prospr": "baselines.prospr:ProsPR",
    "set": "baselines.set:SET",
    "set_original": "baselines.set:SETOriginal",
    "set_itop": "baselines.itop:SETITOP",
    "rigl": "baselines.rigl:RigL",
    "rigl_itop": "baselines.itop:RigLITOP",
    "srigl": "baselines.srigl:SRigL",
    "deepr": "baselines.deepr:DeepR",
    "dsr": "baselines.dsr:DSR",
    "snfs": "baselines.snfs:SNFS",
    "mest": "baselines.mest:MEST",
    "mest_ems": "baselines.mest:EMS",
    "granet": "baselines.granet:GraNet",
    "cht": "baselines.cht:CHT",
    "chts": "baselines.cht:CHTs",
    "dst": "baselines.dst:DST",
    "str": "baselines.str:STR",
    "dns": "baselines.dns:DNS",
    "topkast": "baselines.topkast:TopKAST",
    "dctps": "baselines.dctps:DCTpS",
    "gmp": "baselines.gmp:GMP",
    "acdc": "baselines.acdc:ACDC",
    "imp": "baselines.imp:IMP",
    "east": "east.method:EAST",
}

MODELS: dict[str, str] = {
    "resnet18": "harness.models.resnet:resnet18",
    "resnet34": "harness.models.resnet:resnet34",
    "resnet50": "harness.models.resnet:resnet50",
    "lenet_300_100": "harness.models.lenet:lenet_300_100",
    "lenet5_caffe": "harness.models.lenet:lenet5_caffe",
    "lstm": "harness.models.lstm:lstm",
    "vgg16": "harness.models.vgg:vgg16",
    "vgg19": "harness.models.vgg:vgg19",
    "wrn_16_8": "harness.models.wide_resnet:wrn_16_8",
    "wrn_16_10": "harness.models.wide_resnet:wrn_16_10",
    "wrn_28_2": "harness.models.wide_resnet:wrn_28_2",
    "wrn_28_8": "harness.models.wide_resnet:wrn_28_8",
    "wrn_22_2": "harness.models.wide_resnet:wrn_22_2",
}

DATA: dict[str, str] = {
    "digits": "harness.data.sources:read_digits",
    "mnist": "harness.data.sources:read_mnist",
    "cifar10": "harness.data.sources:read_cifar10",
    "cifar100": "harness.data.sources:read_cifar100",
    "synthetic": "harness.data.sources:read_synthetic",
    "imagefolder": "harness.data.folder:index_folder",
}

SPACES: dict[str, str] = {
    "float": "harness.config.space:FloatSpace",
    "int": "harness.config.space:IntSpace",
    "choice": "harness.config.space:ChoiceSpace",
    "cycles": "east.spaces:CycleSpace",
    "phase": "east.spaces:PhaseSpace",
}


def nearest(name: str, known: Mapping[str, Any] | list[str]) -> str:
    """'; did you mean X?' where something close is known, else the list of what is."""
    close = get_close_matches(name, list(known), n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(sorted(known))}"


def check_known(kind: str, name: str, table: Mapping[str, str]) -> None:
    """A name of the table, or the path of something outside the project: "package.module:Name"."""
    if name not in table and ":" not in name:
        raise HarnessError(f"unknown {kind} '{name}'; {nearest(name, table)}")


def load(kind: str, name: str, table: Mapping[str, str]) -> Any:
    """Import what `name` stands for."""
    check_known(kind, name, table)
    module, _, attribute = table.get(name, name).partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        if name in table:
            raise
        raise HarnessError(f"{kind} '{name}' cannot be imported: {error}; is its folder on PYTHONPATH?") from None
