"""python -m lastcall_worker.healthy: exit code 0 if a worker of this host is in the registry, 1 if none is.

For health checks of containers, each of which is a host of its own.
"""

from __future__ import annotations

import socket
import sys

from lastcall.connect import connect
from lastcall.errors import LastcallError
from lastcall.registry import Registry
from lastcall.settings import Settings


def main() -> int:
    """Say which worker is there, or that none is."""
    try:
        live = Registry(connect(Settings.load())).live()
    except LastcallError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    here = [worker.node for worker in live if worker.host == socket.gethostname()]
    print(f"live: {', '.join(here)}" if here else "no live worker on this host")
    return 0 if here else 1


if __name__ == "__main__":
    sys.exit(main())
