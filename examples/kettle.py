"""The whistling kettle: four ways to wait for one that boils elsewhere.

Lao Zhang may stand in front of it; come and look now and then; wait for the whistle, doing nothing, or anything else
that can be awaited; or be called.
"""

import asyncio
import http.server
import os
import queue
import threading
import time
from typing import Any

from lastcall import Client, Pool, verify_notification


def boil(litres: float) -> str:
    time.sleep(litres / 10)
    return f"{litres:g} l of tea"


def standing_in_front_of_it(pool: Pool) -> None:
    print("stood there:", pool.apply_async(boil, (1,)).get(timeout=30))


def looking_now_and_then(pool: Pool) -> None:
    kettle = pool.apply_async(boil, (2,))
    while not kettle.ready():
        time.sleep(0.05)  # some television
    print("looked:", kettle.get())


async def listening(client: Client) -> None:
    kettles = [asyncio.wrap_future(client.submit(boil, litres)) for litres in (1, 2)]
    print("awaited:", await asyncio.gather(*kettles))


def being_called(pool: Pool) -> None:
    whistle: queue.Queue[str] = queue.Queue()
    pool.apply_async(boil, (3,), callback=whistle.put)  # in this process
    print("called:", whistle.get(timeout=30))


class Door(http.server.BaseHTTPRequestHandler):
    """Where a worker rings; in life this is a service of its own, which may be up when this program is not."""

    key: bytes
    outcomes: queue.Queue[dict[str, Any]] = queue.Queue()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.outcomes.put(verify_notification(dict(self.headers), body, self.key))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def being_told(client: Client, url: str) -> None:
    Door.key = client.settings.key
    kettles = client.queue("kettles", boil, notify=url, reopen=True)
    with kettles.producer("lao-zhang") as out:
        out.put_many([1, 2, 3])
    # Nobody waits for the queue any more; who is told may be another program.
    outcome = Door.outcomes.get(timeout=30)["data"]
    print("told:", outcome["queue"], outcome["state"], outcome["done"])


if __name__ == "__main__":
    door = http.server.HTTPServer(("127.0.0.1", 0), Door)
    threading.Thread(target=door.serve_forever, daemon=True).start()
    origin = f"http://127.0.0.1:{door.server_port}"
    # Whom workers may tell, their operator says, by LASTCALL_NOTIFY_HOSTS. A private server's are this program's own.
    own = "LASTCALL_URL" not in os.environ
    with Client(notify_hosts=origin if own else None) as client:
        with Pool(client=client) as pool:
            standing_in_front_of_it(pool)
            looking_now_and_then(pool)
            being_called(pool)
        asyncio.run(listening(client))
        if own:
            being_told(client, origin)
