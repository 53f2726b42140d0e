"""Finished builds of one host for others: identical binaries, and no compilers where they come to.

A host gives its builds away as a tar (:mod:`uplab.hostside.transfer`) over the connection that
everything else takes, or ``lab.export`` has put them into a file. All of it is read and checked
here (:mod:`uplab.transfer.index`, :mod:`uplab.transfer.archive`) before anything else happens; then
``lab.setup`` hands it to the hosts that want it (:mod:`uplab.transfer.stages`).
"""
