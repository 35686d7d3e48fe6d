"""What a person at the command line has to put right."""


class StarterModelError(Exception):
    """A step cannot begin; the message says what to do about it."""
