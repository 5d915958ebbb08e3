from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from clusters.submit import arguments

ROOT = Path(__file__).parent.parent.parent


def test_ray_accepts_the_cluster_file() -> None:
    """Ray's own schema and bootstrap, as `ray up` uses them before it reaches for a machine."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "ray_config.yaml").read_text())
    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["available_node_types"], "the provider's nodes are known"
    assert any("make setup" in command for command in config["setup_commands"])


def test_a_misspelt_key_would_be_refused() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "ray_config.yaml").read_text())
    with pytest.raises(Exception, match="max_wrkers"):
        validate_config(prepare_config({**config, "max_wrkers": 2}))


def test_submit_attaches_to_the_cluster_it_runs_on() -> None:
    assert arguments(["bench", "demo"]) == ["bench", "demo", "--address", "auto"]
    assert arguments(["bench", "demo", "--address", "local"]) == ["bench", "demo", "--address", "local"]
    assert arguments(["bench", "demo", "--address=local"]) == ["bench", "demo", "--address=local"]
    assert arguments(["tune", "east_imagenet"]) == ["tune", "east_imagenet", "--address", "auto"]
    assert arguments(["board"]) == ["board"]
