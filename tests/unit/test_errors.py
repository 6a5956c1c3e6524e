"""Every error carries its evidence, says what to do, and pickles."""

import copy
import inspect
import pickle
import queue

import cloudpickle
import pytest

from lastcall import errors
from lastcall.errors import LastcallError

SAMPLES: list[LastcallError] = [
    LastcallError("anything"),
    errors.ConfigError("maxsize", "0 (no bound) or a positive int", "-5", "leave it out"),
    errors.ServerUnreachable("redis://nowhere:6379/0", "refused"),
    errors.ServerReadOnly("redis://replica:6379/0", "READONLY"),
    errors.ServerOutOfMemory("redis://host:6379/0", "OOM"),
    errors.ServerTooOld("Redis 6.2.14", "Redis >= 7.0 or Valkey >= 7.2"),
    errors.WrongPassword("redis://:***@host:6379/0", "WRONGPASS"),
    errors.BadEnvelope("it was sealed with another key", ("job", "queue", "7")),
    errors.NotSerializable("item", 3, "_thread.lock", "pickle: no"),
    errors.NotDeserializable("No module named 'images'", "images"),
    errors.AsideLost("calls-1", "it is not on the server"),
    errors.ItemTooLarge(100, 64, 2),
    errors.FunctionNotImportable("images", "worker@host"),
    errors.FunctionNotAllowed("images.resize", "no key"),
    errors.FunctionMismatch("frames", "images.resize", "images.crop"),
    errors.QueueFinished("frames", "DRAINED"),
    errors.QueueHasFunction("frames", "images.resize"),
    errors.QueueMismatch("frames", "maxsize", "10", "20"),
    errors.QueueCancelled("frames"),
    errors.Withdrawn("calls-1/calls"),
    errors.UnknownJob("frames"),
    errors.LeaseLost("frames", "camera-1"),
    errors.HoldLost("lock", "money", 12),
    errors.NotHeld("lock", "money"),
    errors.ProducerLeft("frames", "camera-1"),
    errors.ProducerLost("frames", (("camera-1", 9.25), ("camera-2", 12.0))),
    errors.NoWorker("frames", "gpu", 60.0, "its tickets go to Celery's broker at redis://h:6379/1"),
    errors.WorkerLost("frames", 17, 3),
    errors.ItemTimeout("frames", 17, 2.5, 3),
    errors.NotificationRefused("https://hooks.example.com", ["http://127.0.0.1:8000"]),
    errors.NotificationFailed("https://hooks.example.com", "notify-1", "it answered with status 500", 500),
    errors.NotificationGone("https://hooks.example.com", "notify-1"),
    errors.BadNotification("its signature is not of this key"),
    errors.NotRunning(),
    errors.MergeMismatch("fan_out", 2, 3),
    errors.NothingToReduce("add"),
    errors.ResultsUnread("flow-1", 100_000),
    errors.UnknownLetter("frames", "1-1#17"),
    errors.NotRecorded("nightly"),
    errors.UnknownItem("nightly", "17"),
    errors.InitializerFailed("images.open_camera", "cpu@host", "OSError", "no camera"),
    errors.DeadLetters("frames", 2, 100),
    errors.WaitTimeout("queue frames to drain", 5.0),
    errors.Full("frames", 10, 1.5),
    errors.Empty("frames", 1.5),
    errors.BlocksLoop("frames"),
    errors.RemoteError("images.BadImage", "not a PNG"),
    errors.RemoteTraceback("Traceback (most recent call last):\n"),
    errors.ClientClosed(),
]


def test_every_error_has_a_sample_here() -> None:
    kinds = {kind for _, kind in inspect.getmembers(errors, inspect.isclass)}
    ours = {kind for kind in kinds if issubclass(kind, LastcallError)}
    assert {type(error) for error in SAMPLES} == ours
    assert all(kind.__doc__ for kind in ours)


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    "travel",
    [
        lambda error: pickle.loads(pickle.dumps(error)),
        lambda error: pickle.loads(pickle.dumps(error, 5)),
        lambda error: pickle.loads(cloudpickle.dumps(error)),
        copy.copy,
        copy.deepcopy,
    ],
    ids=["pickle", "pickle5", "cloudpickle", "copy", "deepcopy"],
)
def test_an_error_travels_with_its_fields_message_and_notes(error, travel) -> None:  # type: ignore[no-untyped-def]
    error = copy.copy(error)
    error.add_note("seen on worker@host")
    arrived = travel(error)
    assert type(arrived) is type(error)
    assert arrived is not error
    assert arrived.args == error.args
    assert str(arrived) == str(error)
    assert arrived.__dict__ == error.__dict__
    assert arrived.__notes__ == ["seen on worker@host"]


def test_a_subclass_with_an_init_of_its_own_travels() -> None:
    arrived = pickle.loads(pickle.dumps(Special(3)))
    assert isinstance(arrived, Special)
    assert (arrived.number, arrived.queue, str(arrived)) == (3, "three", str(Special(3)))


class Special(errors.QueueCancelled):
    def __init__(self, number: int) -> None:
        super().__init__("three")
        self.number = number


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.ConfigError, ValueError),
        (errors.ServerUnreachable, ConnectionError),
        (errors.NotSerializable, TypeError),
        (errors.ItemTooLarge, ValueError),
        (errors.WaitTimeout, TimeoutError),
        (errors.Full, queue.Full),
        (errors.Empty, queue.Empty),
    ],
)
def test_errors_are_caught_as_the_builtin_that_people_expect(
    kind: type[LastcallError], builtin: type[Exception]
) -> None:
    assert issubclass(kind, builtin)


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (SAMPLES[1], ["maxsize must be 0 (no bound) or a positive int, got -5", "leave it out"]),
        (
            errors.ServerUnreachable("redis://h", "refused"),
            ["redis://h", "refused", "LASTCALL_URL"],
        ),
        (errors.ServerUnreachable("amqp://h//", "refused"), ["Celery's broker at amqp://h//", "LASTCALL_BROKER_URL"]),
        (errors.ServerTooOld("Redis 6.2", "Redis >= 7.0"), ["needs Redis >= 7.0", "Redis 6.2"]),
        (errors.NotSerializable("item", 3, "lock", "no"), ["item 3", "lock"]),
        (errors.NotSerializable("value", None, "lock", "no"), ["cannot send value (a lock): no"]),
        (errors.ItemTooLarge(2_000, 1_000, 2), ["item 2", "2,000 bytes", "limit is 1,000"]),
        (
            errors.FunctionNotImportable("images", "w@h"),
            ["worker w@h", "import images", "PYTHONPATH"],
        ),
        (errors.QueueFinished("frames", "DRAINED"), ["queue frames", "drained", "new queue name"]),
        (errors.QueueFinished("frames", "ODD"), ["its state is ODD"]),
        (
            errors.ProducerLost("q", (("camera-1", 9.25), ("camera-2", 12.0))),
            [
                "camera-1 (it failed, or was silent for 9.2 s), camera-2 (it failed, or was silent for 12.0 s)",
                'on_lost="ignore"',
            ],
        ),
        (
            errors.NoWorker("frames", "gpu", 60.0),
            ["60.0 s", '"gpu"', "start one with: lastcall worker -Q gpu"],
        ),
        (errors.RemoteError("images.BadImage", ""), ["images.BadImage"]),
        (errors.BadEnvelope("cut short", ("job", "q")), ["job/q: cut short"]),
    ],
)
def test_a_message_says_what_was_expected_what_came_and_what_to_do(error: LastcallError, parts: list[str]) -> None:
    for part in parts:
        assert part in str(error)


def test_a_stage_that_was_lost_is_not_said_to_have_been_silent() -> None:
    said = str(errors.ProducerLost("parse", (("stage:read", 10.0), ("walker-1", 2.5))))
    assert "stage:read (that queue ended incomplete or was cancelled" in said
    assert "walker-1 (it failed, or was silent for 2.5 s)" in said
