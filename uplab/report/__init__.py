"""Reports, made from a run directory and nothing else, as often as one likes."""
