"""The figures of a sweep, one a file: `draw(sweep)` gives none, one or several of them, ORDER is their place.

A figure goes by its file's name, `bytes` or, where there are several, `bytes_01` and so on.
"""
