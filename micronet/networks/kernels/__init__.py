"""The engine: array kernels for the networks, size maps and distortion; see README.md here for where things are.

Nothing is imported here: some modules need numba, and those that do not must work without it.
"""
