"""What runs on a cluster's head node, and descriptions of clusters."""
