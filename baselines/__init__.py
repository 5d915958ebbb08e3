"""The methods EAST is compared with, one file each, the idea only."""
