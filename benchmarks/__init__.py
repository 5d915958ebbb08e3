"""What the harness costs, as ratios within one run. `python -m benchmarks` lists them."""
