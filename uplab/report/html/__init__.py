"""The report as one page: `report.html`, self-contained and offline.

Everything in it that comes from a run is text: the template engine escapes it, data for the script
is JSON without `<`, and the page's own policy (Content-Security-Policy) allows the one style and
the one script that it holds, by their digests, and no other.
"""
