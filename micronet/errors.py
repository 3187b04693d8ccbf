"""The errors that a person can cause, each with a message fit to be shown as it is."""

__all__ = ["FileError", "InputError", "MicronetError"]


class MicronetError(Exception):
    """Root of every error that micronet raises on purpose."""


class InputError(MicronetError, ValueError):
    """A value, array or option is not what was expected."""


class FileError(MicronetError, OSError):
    """A file cannot be read or written, or does not hold what its name promises."""
