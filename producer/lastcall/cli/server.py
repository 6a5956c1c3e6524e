"""What commands that need a server begin with: its settings, or what to set."""

from __future__ import annotations

from lastcall.errors import ConfigError
from lastcall.settings import Settings


def settings(expected: str) -> Settings:
    """LASTCALL_URL's server. expected: what it is wanted for, in words: "set to the server of the job".

    Raises ConfigError where none is set.
    """
    loaded = Settings.load()
    if loaded.url is None:
        raise ConfigError("LASTCALL_URL", expected, "nothing", "such as LASTCALL_URL=redis://localhost:6379/0")
    return loaded
