"""What a slot keeps between two tickets."""

from __future__ import annotations

from celery import Celery

from lastcall import Client
from lastcall.settings import Settings
from lastcall_worker.station import Station
from tests import functions
from tests.servers import Server

KEY = "a key of sixteen bytes or more"


def test_a_queue_of_the_same_name_that_was_made_anew_has_its_own_function() -> None:
    with Server(tcp=False) as server, Client(server.url, KEY) as client:
        settings = Settings.load(server.url, KEY)
        station = Station(Celery(set_as_current=False), settings, "cpu@test")
        client.queue("again", functions.same)
        before = station.work("again/again")
        server.client().flushall()  # as if it had expired
        client.queue("again", functions.plus_one)
        after = station.work("again/again")
        assert before is not None
        assert after is not None
        assert before.function is functions.same
        assert after.function is functions.plus_one
        assert station.work("again/again") is after
