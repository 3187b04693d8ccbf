"""The version of micronet."""

__version__ = "0.1.0"
