"""The reference in ``docs/reference`` that is made from the code: ``./invoke build.reference``.

A test makes every page again and compares, so that what the reference says is what the code does.
"""
