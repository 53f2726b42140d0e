"""The command line: names, flags and help. What the tasks do lies in ``uplab/``."""
