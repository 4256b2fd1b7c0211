"""niah: how well a language model finds one fact in a long text."""

__version__ = "0.1.0"
