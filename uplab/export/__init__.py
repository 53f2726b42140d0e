"""A run in the forms that other programs read: one module a form, and one registry of them.

Every form is made from the run directory alone, and the same run gives the same bytes.
"""
