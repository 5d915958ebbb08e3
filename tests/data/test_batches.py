from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.config.schema import DataConfig
from harness.data.batches import Share, share_of
from harness.data.open import open_data
from harness.errors import HarnessError

CPU = torch.device("cpu")


@given(st.integers(1, 50), st.integers(1, 6), st.integers(1, 4))
def test_each_image_is_counted_once_over_all_ranks(n: int, world_size: int, accumulation: int) -> None:
    positions = torch.arange(100, 100 + n)
    counted: list[int] = []
    lengths = set()
    for rank in range(world_size):
        mine, weight = share_of(positions, Share(rank, world_size, accumulation))
        counted += mine[weight > 0].tolist()
        lengths.add(len(mine))
    assert sorted(counted) == positions.tolist()
    assert len(lengths) == 1, "all ranks take part with as many images"
    assert lengths.pop() % accumulation == 0


def digits(rank: int = 0, world_size: int = 1, **options: object) -> object:
    config = DataConfig(name="digits", batch_size=128, **options)  # type: ignore[arg-type]
    return open_data(config, 5, Share(rank, world_size), CPU, eval_batch=100)


def test_digits_are_split_by_index() -> None:
    loader = digits()
    assert loader.sizes == {"train": 1199, "validation": 299, "test": 299}


def test_two_ranks_see_what_one_sees() -> None:
    options = {"pad": 1, "flip": True}
    whole = list(digits(**options).train(epoch=3))
    halves = [list(digits(rank, 2, **options).train(epoch=3)) for rank in range(2)]
    assert [b.n_global for b in whole] == [128] * 9 + [47]
    for batch, first, second in zip(whole, *halves, strict=True):
        counted = torch.cat([first.weight, second.weight]) > 0
        assert torch.equal(batch.images, torch.cat([first.images, second.images])[counted])
        assert torch.equal(batch.labels, torch.cat([first.labels, second.labels])[counted])


def test_an_epoch_can_be_entered_anywhere_and_depends_on_seed_and_epoch_alone() -> None:
    loader = digits(pad=1, flip=True)
    whole, rest = list(loader.train(epoch=2)), list(loader.train(epoch=2, first_batch=7))
    assert torch.equal(whole[7].images, rest[0].images)
    assert len(rest) == 3
    assert not torch.equal(whole[0].labels, next(iter(loader.train(epoch=3))).labels)


def test_crops_are_windows_of_the_padded_image() -> None:
    plain, cropped = digits(), digits(pad=2)
    still, moved = next(iter(plain.train(1))), next(iter(cropped.train(1)))
    assert torch.equal(still.labels, moved.labels)
    black = (0 - 0.305) / 0.376
    shifts = set()
    for before, after in zip(still.images, moved.images, strict=True):
        padded = torch.nn.functional.pad(before - black, (2, 2, 2, 2)) + black
        found = [
            (y, x) for y in range(5) for x in range(5)
            if torch.allclose(padded[:, y : y + 8, x : x + 8], after, atol=1e-5)
        ]  # fmt: skip
        assert found
        shifts.add(found[0])
    assert len(shifts) > 15


def test_reflect_padding_is_torchs() -> None:
    still, moved = next(iter(digits().train(1))), next(iter(digits(pad=2, pad_mode="reflect").train(1)))
    padded = torch.nn.functional.pad(still.images[:1], (2, 2, 2, 2), mode="reflect")[0]
    windows = [padded[:, y : y + 8, x : x + 8] for y in range(5) for x in range(5)]
    assert any(torch.equal(window, moved.images[0]) for window in windows)


def test_a_missing_root_is_named() -> None:
    with pytest.raises(HarnessError, match="needs a folder: give --data-root"):
        open_data(DataConfig(name="cifar10"), 0, Share(), CPU, 100)
    with pytest.raises(HarnessError, match="/no/such is not a folder"):
        open_data(DataConfig(name="mnist", root="/no/such"), 0, Share(), CPU, 100)


def test_a_root_without_the_data_says_what_it_holds(tmp_path: object) -> None:
    with pytest.raises(HarnessError, match=r"holds none of cifar-10-batches-py.*; found: nothing"):
        open_data(DataConfig(name="cifar10", root=str(tmp_path)), 0, Share(), CPU, 100)


def test_a_cifar_file_that_would_run_code_is_refused(tmp_path: object) -> None:
    import pickle
    from pathlib import Path

    folder = Path(str(tmp_path)) / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(pickle.dumps({"data": eval}))
    with pytest.raises(HarnessError, match=r"data_batch_1 is not an original CIFAR file: builtins.eval has no place"):
        open_data(DataConfig(name="cifar10", root=str(tmp_path)), 0, Share(), CPU, 100)


def test_real_cifar10_and_mnist(real_data: object) -> None:
    cifar = open_data(DataConfig(name="cifar10", root=str(real_data)), 0, Share(), CPU, 500)
    assert cifar.sizes == {"train": 45_000, "validation": 5_000, "test": 10_000}
    assert (cifar.inputs.channels, cifar.inputs.size, cifar.inputs.n_classes) == (3, 32, 10)
    images = next(iter(cifar.evaluate("test"))).images
    assert images.mean().abs() < 0.2
    assert 0.8 < images.std() < 1.5
    mnist = open_data(DataConfig(name="mnist", root=str(real_data)), 0, Share(), CPU, 500)
    assert mnist.sizes == {"train": 54_000, "validation": 6_000, "test": 10_000}
