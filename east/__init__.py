"""EAST: RigL with DyReLU phasing, weight sharing and cyclic density (arXiv 2411.13545)."""
