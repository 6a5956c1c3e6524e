"""The one place that holds lastcall's version; the distribution's metadata is read from here."""

__version__ = "0.1.0"
