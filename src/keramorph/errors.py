"""What Keramorph raises: each says what was expected, what was received and what to do about it."""


class InputError(ValueError):
    """Something handed to Keramorph cannot be used; the command line turns it into exit code 2."""


class ShapeError(InputError):
    """An array has the wrong number of axes, or sizes that do not fit those of another."""


class OptionError(InputError):
    """An option has a value that it cannot take."""


class FileError(InputError):
    """A file is missing, unreadable, not what its name says, or in the way."""


class ArrayTypeError(TypeError):
    """A value is not an array, or its data type cannot be used here."""
