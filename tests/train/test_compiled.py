"""Compiled by torch's own tracer without its code generator: the same numbers to the last bit, and how many programs.

CUDA graphs and generated kernels need a GPU and are not run here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from harness.config import build_config, run_id
from harness.sparse.masks import digest
from harness.train import compiled
from harness.train.checks import current_masks
from harness.train.compiled import kind_of
from harness.train.evaluate import evaluate
from harness.train.job import build_job
from harness.train.loop import adapt, take_step
from tests.distributed.steps import METHODS

pytestmark = pytest.mark.slow


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[CompileCounterWithBackend]:
    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(compiled, "COMPILER", counter)
    yield counter
    torch.compiler.reset()


def train(method: dict[str, Any], compile: str, steps: int = 16, model: str = "two_stages") -> dict[str, Any]:
    """Losses, masks, weights; both kinds of evaluation batch are met on the way."""
    plain = {
        "model": {"name": model, **({} if model == "lenet_300_100" else {"width": 4})},
        "data": {"name": "digits", "batch_size": 240},
        "method": method, "optimizer": {"lr": 0.05}, "schedule": {"steps": steps},
        "engine": {"device": "cpu", "compile": compile}, "evaluation": {"batch_size": 80},
    }  # fmt: skip
    job = build_job(build_config(plain, "compiled"), 3, Path("unused"))
    losses, masks, scores, step = [], [], [], 0
    while step < steps:
        for batch in job.loader.train(job.clock.epoch(step)):  # five batches, the last of them smaller
            adapt(job, step)
            step += 1
            losses.append(float(take_step(job, step, batch)))
            if job.method.update_due(step):
                masks.append(digest(current_masks(job.engine)))
            if step == steps:
                break
        scores.append(evaluate(job.engine, job.loader, "validation"))
    weights = {name: tensor.clone() for name, tensor in job.engine.state().items()}
    return {"losses": losses, "masks": masks, "scores": scores, "weights": weights}


PROGRAMS = {
    "rigl": 2, "set": 2, "snfs": 2, "topkast": 2, "gmp": 2, "dst": 2, "dns": 2, "dctps": 2,
    "east": 4,  # one to train and one to evaluate, with DyReLU and again without
}  # fmt: skip


@pytest.mark.parametrize("method", PROGRAMS)
def test_the_same_to_the_last_bit_and_nothing_is_compiled_twice(
    compiler: CompileCounterWithBackend, method: str
) -> None:
    """Through topology updates, dense gradients at some of them, a beta that falls, and batches of other sizes."""
    plain = train(METHODS[method], "off")
    assert compiler.frame_count == 0
    found = train(METHODS[method], "graphs")
    assert found["losses"] == plain["losses"]
    assert found["masks"] == plain["masks"]
    assert found["scores"] == plain["scores"]
    assert all(torch.equal(found["weights"][name], tensor) for name, tensor in plain["weights"].items())
    assert len(found["masks"]) >= (0 if method == "dst" else 3)
    assert compiler.frame_count == PROGRAMS[method]


def test_many_runs_of_one_process_are_all_compiled(compiler: CompileCounterWithBackend) -> None:
    """Torch gives up on a function after eight programs, without a word where nobody listens."""
    for n in range(1, 11):
        train(METHODS["static"], "on", steps=2, model="lenet_300_100")
        assert compiler.frame_count == 2 * n


SECOND_TRIAL = """
from pathlib import Path
from torch._dynamo.utils import counters
from harness.config import build_config
from harness.train.job import build_job
from harness.train.loop import take_step

plain = {"model": {"name": "lenet_300_100"}, "data": {"batch_size": 32}, "method": {"name": "static", "density": 0.1},
         "engine": {"device": "cpu", "compile": "on", "threads": 1}}
job = build_job(build_config(plain, "trial"), 0, Path("unused"))
take_step(job, 1, next(job.loader.train(1)))
print(counters["inductor"]["fxgraph_cache_miss"], counters["inductor"]["fxgraph_cache_hit"])
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ to generate code for a CPU")
def test_a_later_process_finds_what_the_first_compiled(tmp_path: Path) -> None:
    """As trials of one shape do that run beside or after one another."""
    env = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    words = [sys.executable, "-c", SECOND_TRIAL]
    said = [subprocess.run(words, env=env, check=True, capture_output=True, text=True).stdout for _ in range(2)]
    (n_compiled, *_), (n_again, n_found) = (tuple(map(int, text.split())) for text in said)
    assert n_compiled > 0
    assert (n_again, n_found) == (0, n_compiled)


@pytest.mark.parametrize(
    ("engine", "device", "expected"),
    [
        ({}, "cpu", "off"),
        ({}, "cuda", "graphs"),
        ({"workers": 2}, "cuda", "on"),
        ({"accumulation": 2}, "cuda", "on"),
        ({"name": "deepspeed"}, "cuda", "on"),
        ({"compile": "off"}, "cuda", "off"),
        ({"compile": "on"}, "cpu", "on"),
    ],
)
def test_when_it_compiles(engine: dict[str, Any], device: str, expected: str) -> None:
    config = build_config({"engine": engine}, "test")
    assert kind_of(config, torch.device(device)) == expected


def test_whether_it_compiles_is_not_who_a_run_is() -> None:
    assert run_id(build_config({"engine": {"compile": "on"}}, "a"), 1) == run_id(build_config({}, "b"), 1)
