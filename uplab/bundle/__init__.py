"""A bundle: all that a lab is made from in one file, for machines without a network.

``lab.bundle`` makes it on a connected machine: every pinned source, the controller's wheels, and
the Debian packages of a release. ``lab.setup --bundle`` carries what a host needs to it, and
``UPLAB_BUNDLE=... ./invoke`` makes the environment on a machine that has nothing but Python.

A bundle is a tar compressed by zstd. Its first member, ``index.json``, names every other one with
its sha256; see :mod:`uplab.bundle.index`. What reads a bundle (``index``, ``reading``, ``zstd``)
stands on Python's standard library alone, because ``tools/bootstrap.py`` has nothing else.
"""
