"""Which recbole_eimf this is."""

__version__ = "0.1.0"
