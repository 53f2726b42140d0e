"""uplab: what tracing costs a Go HTTP or HTTPS server, measured and defended.

This file travels to the hosts inside the zipapp, so it imports nothing.
"""

__version__ = "0.1.0"
