"""The typed, frozen description of one run. Unknown keys and impossible values are refused when it is built."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, field_validator, model_validator

from harness.config import registry


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelConfig(Section):
    name: str = "resnet34"
    """A name of `harness models`."""

    width: int | None = Field(None, ge=1, le=1024)
    """ResNets: channels of the first stage, 64 by default; later stages have 2, 4 and 8 times as many. LSTM: units
    per layer, 128 by default. Other networks have none to choose."""

    stem: Literal["cifar", "imagenet"] = "cifar"
    """'cifar': 3 x 3, stride 1, no pooling. 'imagenet': 7 x 7, stride 2, then max-pooling."""

    norm: Literal["batch", "sync", "group", "none"] = "batch"
    """Normalisation after every convolution. 'batch' is over the images of a rank; 'sync', over those of all ranks, and
    'group', within an image, do not depend on how a batch is split over ranks."""

    init: Literal["torch", "kaiming_normal"] = "torch"
    """Of convolution and linear weights: each module's own, or normal with variance 2 / fan-in."""

    classifier_bias: bool = False
    """Whether the last layer has a bias. EAST's networks have none."""

    dropout: float = Field(0.0, ge=0, lt=1)
    """Wide ResNets: probability of dropping an activation between the two convolutions of a block."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        registry.check_known("model", name, registry.MODELS)
        return name

    @model_validator(mode="after")
    def _can_drop(self) -> ModelConfig:
        if self.dropout and not self.name.startswith("wrn_"):
            raise ValueError(f"dropout is for wide ResNets (wrn_...), {self.name} has none")
        return self


class DataConfig(Section):
    name: str = "digits"
    """A name of `harness data`."""

    root: str | None = None
    """Folder that holds the data sets; by default --data-root, then $HARNESS_DATA. Not part of a run's identity."""

    folder: str = "imagenet"
    """Image folders: the data set's folder inside the root, with train/<class>/ and val/<class>/ in it."""

    batch_size: int = Field(128, ge=1)
    """Images per optimizer step over all ranks and accumulated micro-batches."""

    image_size: int | None = Field(None, ge=8, le=1024)
    """Side of the images the network sees (image folders and synthetic images)."""

    scaling: Literal["normalised", "unit"] = "normalised"
    """Pixels less their mean over their standard deviation, or between 0 and 1 (data sets held whole)."""

    pad: int = Field(0, ge=0, le=16)
    """Training: pad by this many pixels and crop back at a random place."""

    pad_mode: Literal["zero", "reflect"] = "zero"
    flip: bool = False
    """Training: mirror left and right with probability one half."""

    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Training on image folders: area of the random crop as a fraction of the image."""

    validation_fraction: float = Field(0.1, gt=0, lt=1)
    """Image folders and MNIST: share of the training images held out, by index, for validation."""

    on_corrupt: Literal["error", "skip"] = "error"
    """A broken image stops the run and is named, or is left out, counted and reported."""

    loader: Literal["auto", "resident", "dali", "torchvision"] = "auto"
    """How the images are fed: same order, crops and flips whichever. Not part of a run's identity."""

    threads: int = Field(0, ge=0, le=256)
    """Decoding threads per rank; 0: this node's cores over its GPUs, or over the ranks here if they are more. Not part
    of a run's identity. `harness doctor --tune-loader` measures."""

    prefetch: int = Field(2, ge=1, le=64)
    """Batches of an image folder decoded before they are asked for. Not part of a run's identity."""

    stage: str | None = None
    """Folder on a disk of this node that shards are copied to before training, once for all its processes. Also by
    HARNESS_STAGE. Not part of a run's identity."""

    n_images: int = Field(2048, ge=1)
    """Synthetic data: number of training images."""

    n_classes: int = Field(10, ge=2)
    """Synthetic data: number of classes."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        registry.check_known("data set", name, registry.DATA)
        return name

    @field_validator("crop_scale")
    @classmethod
    def _ordered(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"needs 0 < low <= high <= 1, got {scale}")
        return scale


class MethodOptions(Section):
    """What every method has; each method's own options extend it, beside the method's code."""

    name: str = "dense"
    label: str | None = Field(None, min_length=1, max_length=60)
    """What leaderboards call this setting, where a name alone would not tell arms apart. Not part of identity."""

    keep_dense: tuple[str, ...] = ()
    """Layers by name or pattern, e.g. 'classifier', '*.shortcut.*', never masked and not part of the density count."""

    density: float = Field(1.0, gt=0, le=1)
    """Fraction of maskable weights kept at the end, 0 < density <= 1; 99.9 % sparse is 0.001."""

    @field_validator("density", mode="before")
    @classmethod
    def _explain(cls, density: Any) -> Any:
        if isinstance(density, int | float) and not 0 < density <= 1:
            hint = f"; {density:g} % sparse is {1 - density / 100:.6g}" if 1 < density < 100 else ""
            raise ValueError(f"must lie in (0, 1], got {density:g}{hint}")
        return density


class OptimizerConfig(Section):
    name: Literal["sgd", "adam"] = "sgd"
    lr: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = True
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam: decay of the averages of gradient and squared gradient."""

    weight_decay: float = Field(1e-4, ge=0)
    decay: Literal["all", "weights"] = "all"
    """Which parameters decay: all of them (EAST, ITOP), or convolution and linear weights and a method's thresholds."""

    clip_norm: float = Field(0.0, ge=0)
    """Largest global L2 norm of the averaged gradients; 0 turns clipping off."""

    clip_rule: Literal["dense", "masked"] = "masked"
    """Whether gradients of masked positions count in that norm (EAST: 'dense')."""

    label_smoothing: float = Field(0.0, ge=0, lt=1)
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Evaluate an exponential moving average of the weights instead of the weights."""

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> OptimizerConfig:
        if self.name == "sgd" and self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum above 0: set optimizer.nesterov=false or give a momentum")
        return self


class ScheduleConfig(Section):
    epochs: float | None = Field(None, gt=0)
    steps: int | None = Field(None, ge=1)
    """Length of training: epochs or optimizer steps, exactly one of the two."""

    law: Literal["step", "cosine", "constant"] = "step"
    milestones: tuple[float, ...] = (0.5, 0.75)
    """Law 'step': fractions of the run after which the rate is multiplied by `factor`."""

    factor: float = Field(0.1, gt=0, lt=1)
    warmup: float = Field(0.0, ge=0, lt=1)
    """Fraction of the run over which the rate rises linearly from 0."""

    @model_validator(mode="after")
    def _one_length(self) -> ScheduleConfig:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"give exactly one of epochs and steps, got epochs={self.epochs}, steps={self.steps}")
        if any(not 0 < m < 1 for m in self.milestones) or list(self.milestones) != sorted(self.milestones):
            raise ValueError(f"milestones are rising fractions of the run between 0 and 1, got {self.milestones}")
        return self


class EngineConfig(Section):
    name: Literal["torch", "deepspeed"] = "torch"
    zero_stage: Literal[0, 1, 2] = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    """'bf16' is autocast; weights and thresholds stay fp32. Part of a run's identity, as it changes the numbers."""

    accumulation: int = Field(1, ge=1)
    """Micro-batches per optimizer step."""

    workers: int = Field(1, ge=1)
    """Ranks; the batch is divided among them."""

    compile: Literal["auto", "off", "on", "graphs"] = "auto"
    """torch.compile, with CUDA graphs where it says so. 'auto': on a GPU with graphs, or without where several ranks or
    micro-batches make a step; off on a CPU. Not part of a run's identity, as the device is not."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(0, ge=0)
    """CPU threads per rank; 0 leaves it to torch."""

    @model_validator(mode="after")
    def _stage_needs_deepspeed(self) -> EngineConfig:
        if self.zero_stage and self.name != "deepspeed":
            raise ValueError(f"zero_stage {self.zero_stage} needs engine.name=deepspeed, got {self.name}")
        return self


class EvaluationConfig(Section):
    every_epochs: float = Field(1.0, gt=0)
    batch_size: int = Field(500, ge=1)
    checkpoint_seconds: float = Field(20.0, ge=0)
    """Save at the first evaluation after this many seconds. Not part of a run's identity."""

    keep_checkpoints: int = Field(2, ge=1)
    """The newest so many stay while a run goes on: where one is damaged, the one before is continued from. Not part of
    a run's identity."""

    test: bool = True
    """Whether the test set is evaluated. Searches never do."""


class TrackingConfig(Section):
    uri: str | None = None
    """MLflow tracking URI; by default a SQLite file in --out. 'none' keeps records only."""

    experiment: str = "sparsity-harness"


class TuningConfig(Section):
    """The search a configuration comes from: what a reader of its numbers must know. Not part of a run's identity."""

    study: str
    trials: int = Field(ge=0)
    train_seconds: float = Field(ge=0)
    """Training time of all trials and confirmations together, summed over runs."""

    gpu_hours: float = Field(0.0, ge=0)
    train_flops: float = Field(0.0, ge=0)
    best: float | None = None
    """The objective of this configuration, mean over seeds the search had not used."""

    expected_best: dict[int, float] = Field(default_factory=dict)
    """Expected best of so many trials, as the search had it."""


WIDTHS = {"resnet18": 64, "resnet34": 64, "resnet50": 64, "lstm": 128}
"""Default widths of the networks that come in several."""


def model_label(config: RunConfig) -> str:
    """What leaderboards call a network: its name, and its width where it has one."""
    width = config.model.width or WIDTHS.get(config.model.name)
    return f"{config.model.name}-w{width}" if width else config.model.name


def label_of(method: MethodOptions) -> str:
    """Name and density, but for methods of which no density is asked."""
    return shown_name(method) + (f" d={method.density:g}" if method.density < 1 else "")


def shown_name(method: MethodOptions) -> str:
    return method.label or method.name


class RunConfig(Section):
    """One run, but for its seed: model, data, method, optimizer, schedule, and how it is run and tracked."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    method: SerializeAsAny[MethodOptions] = MethodOptions()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig(epochs=1)
    engine: EngineConfig = EngineConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: TrackingConfig = TrackingConfig()
    tuning: TuningConfig | None = None

    @field_validator("method", mode="before")
    @classmethod
    def _options_of_the_method(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        name = value.get("name", "dense")
        return registry.load("method", str(name), registry.METHODS).Options(**value)

    @model_validator(mode="after")
    def _nothing_turns_the_method_off(self) -> RunConfig:
        registry.load("method", self.method.name, registry.METHODS).check(self)
        return self

    @model_validator(mode="after")
    def _scaling_is_known(self) -> RunConfig:
        if self.data.name == "imagefolder" and self.data.scaling != "normalised":
            raise ValueError(f"data.scaling {self.data.scaling} is for data sets held whole, not for image folders")
        return self

    @model_validator(mode="after")
    def _batch_holds_every_worker(self) -> RunConfig:
        parts = self.engine.workers * self.engine.accumulation
        if self.data.batch_size % parts:
            raise ValueError(
                f"data.batch_size {self.data.batch_size} must divide into {self.engine.workers} workers x "
                f"{self.engine.accumulation} micro-batches: choose a multiple of {parts}"
            )
        return self
