"""The figures of a run, one a file: `applies(result)` says where there is one, `draw(result)` draws it; see ORDER.

A figure goes by its file's name, and ORDER is its place among them; `catalogue.py` finds it by that file alone.
"""
