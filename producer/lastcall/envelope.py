"""The signed envelope: what every value, function and result travels in.

Layout: 1 byte kind (high half: version, low half: kind), 16 bytes MAC, payload.
With a key the payload is a pickle under a keyed BLAKE2b; without one it is msgpack under a plain
BLAKE2b, a checksum against accidents. The MAC covers kind, context and payload, so that an
envelope is good only for the job, queue and chunk that it was made for.
Nothing is unpickled before its MAC is verified, and nothing at all where there is no key.
"""

import hashlib
import io
import pickle
import struct
import sys
from collections.abc import Callable, Iterable
from hmac import compare_digest
from typing import Any

import msgpack

from lastcall.errors import AsideLost, BadEnvelope, ConfigError, ItemTooLarge, NotDeserializable, NotSerializable
from lastcall.mainspace import Loader
from lastcall.parcel import Parcel, Part, rebuild

MIN_KEY_BYTES = 16
OVERHEAD_BYTES = 17

_VERSION = 1
_KEYED = _VERSION << 4 | 1
_PLAIN = _VERSION << 4 | 2
_MAC_BYTES = OVERHEAD_BYTES - 1
_DIGEST_BYTES = 32

# In a pickle that refers to __main__, or to __mp_main__ as multiprocessing's children call it.
_MAIN_MARK = b"_main__"

# How many parts the context has and how many bytes: makes what is signed unambiguous.
_CONTEXT_SIZES = struct.Struct(">HI").pack


class Sealer:
    """Seals values for the wire and opens them again.

    key: at least 16 bytes, the same on every side; None: msgpack values only, unsigned.
    """

    __slots__ = ("_kind", "_kind_byte", "_new_digest", "_new_mac", "keyed")

    def __init__(self, key: bytes | None) -> None:
        if key is not None and len(key) < MIN_KEY_BYTES:
            raise ConfigError(
                "key",
                f"at least {MIN_KEY_BYTES} bytes",
                f"{len(key)}",
                "make one with: lastcall secrets key",
            )
        self.keyed = key is not None
        self._kind = _PLAIN if key is None else _KEYED
        self._kind_byte = bytes((self._kind,))
        if key is not None and len(key) > hashlib.blake2b.MAX_KEY_SIZE:
            key = hashlib.blake2b(key, person=b"lastcall key").digest()
        mac = hashlib.blake2b(key=key or b"", digest_size=_MAC_BYTES, person=b"lastcall seal")
        mac.update(self._kind_byte)
        # Keyed once for all envelopes: a copy is cheaper than a new one.
        self._new_mac = mac.copy
        self._new_digest = hashlib.blake2b(key=key or b"", digest_size=_DIGEST_BYTES, person=b"lastcall aside").copy

    def __repr__(self) -> str:
        return f"Sealer({'keyed' if self.keyed else 'no key'})"

    def seal(self, value: object, *context: str, parcel: Parcel | None = None) -> bytes:
        """Serialize and sign a value.

        context: what the envelope is bound to, such as job, queue, chunk; open() needs the same. parcel: as in dump().
        Without a key tuples arrive as lists. Raises NotSerializable.
        """
        payload = self.dump(value, parcel)
        return b"".join((self._kind_byte, self._mac(context, payload), payload))

    def open(self, data: bytes | bytearray | memoryview, *context: str) -> Any:
        """Verify an envelope and give its value back.

        Raises BadEnvelope where it is not genuine (nothing was deserialized then), and
        NotDeserializable where it is, but its value cannot be rebuilt here.
        """
        view = memoryview(data)
        if len(view) < OVERHEAD_BYTES:
            raise BadEnvelope(
                f"expected at least {OVERHEAD_BYTES} bytes, got {len(view)}: it was cut short, or is no envelope",
                context,
            )
        if view[0] != self._kind:
            raise BadEnvelope(_why_other_kind(view[0], self.keyed), context)
        payload = view[OVERHEAD_BYTES:]
        if not compare_digest(self._mac(context, payload), view[1:OVERHEAD_BYTES]):
            raise BadEnvelope(
                "it was sealed with another key, changed on the way, or made for another place: "
                "give this side and the sender the same LASTCALL_KEY"
                if self.keyed
                else "its checksum is wrong: it was changed on the way, or made for another place",
                context,
            )
        return self.load(payload)

    def dump(self, value: object, parcel: Parcel | None = None) -> bytes:
        """Serialize a value that will travel inside an envelope.

        parcel: takes its large buffers, where there is a key; those must be put aside before the envelope is sent.
        Raises NotSerializable, ItemTooLarge for a buffer.
        """
        if not self.keyed:
            return _dump_plain(value)
        if parcel is None:
            return dump_pickle(value)
        return _dump_beside(value, parcel, self.digest)

    def digest(self, data: bytes | memoryview) -> bytes:
        """What names a buffer that travels beside its envelope, and proves that it is genuine."""
        digest = self._new_digest()
        digest.update(data)
        return digest.digest()

    def load(self, payload: bytes | memoryview) -> Any:
        """Give back what dump() took; only for bytes out of an envelope that was verified.

        Raises NotDeserializable.
        """
        try:
            if self.keyed:
                return pickle.loads(payload)
            return msgpack.unpackb(payload, strict_map_key=False, unicode_errors="surrogatepass")
        except (MemoryError, BadEnvelope, AsideLost):
            raise
        except Exception as error:  # unpickling runs the value's own code, which may raise anything
            raise not_deserializable(error) from error

    def _mac(self, context: tuple[str, ...], payload: bytes | memoryview) -> bytes:
        bound = "\0".join(context).encode("utf-8", "surrogatepass")
        if bound.count(0) >= (len(context) or 1):
            raise ValueError(f"a context part must have no NUL character, got {context!r}")
        mac = self._new_mac()
        mac.update(_CONTEXT_SIZES(len(context), len(bound)) + bound)
        mac.update(payload)
        return mac.digest()


def unserializable(sealer: Sealer, items: Iterable[object]) -> tuple[int, NotSerializable] | None:
    """Find the first item that cannot be sealed; to be called after sealing all of them failed."""
    for index, item in enumerate(items):
        try:
            sealer.seal(item)
        except NotSerializable as error:
            return index, NotSerializable("item", index, error.type_name, error.reason)
    return None


def dump_pickle(value: object) -> bytes:
    """Pickle a value; by cloudpickle where pickle cannot, or where it would refer to __main__.

    Raises NotSerializable.
    """
    payload, by_value = _pickled(value, None)
    return pickle.dumps(_ByValue(payload), 5) if by_value else payload


def _dump_beside(value: object, parcel: Parcel, digest: Callable[[memoryview], bytes]) -> bytes:
    """The same, where the parcel takes the large buffers. Raises NotSerializable, ItemTooLarge."""
    payload, by_value = _pickled(value, parcel)
    if parcel.taken:
        return pickle.dumps(_Beside(parcel.job, parcel.seal(digest), payload, by_value), 5)
    return pickle.dumps(_ByValue(payload), 5) if by_value else payload


def _pickled(value: object, parcel: Parcel | None) -> tuple[bytes, bool]:
    """A pickle, and whether cloudpickle made it."""
    try:
        payload = pickle.dumps(value, 5) if parcel is None else parcel.dump(value, pickle.Pickler, pickle.dumps)
    except (MemoryError, ItemTooLarge):
        raise
    except Exception as error:  # a value's own __reduce__ may raise anything
        return _pickled_by_value(value, error, parcel), True
    if _MAIN_MARK in payload:
        # Another process has another __main__: its classes and functions go by value.
        return _pickled_by_value(value, None, parcel), True
    return payload, False


def _pickled_by_value(value: object, first: Exception | None, parcel: Parcel | None) -> bytes:
    import cloudpickle  # here, since most programs never need it

    child_main = sys.modules.get("__mp_main__")
    if child_main is not None:
        cloudpickle.register_pickle_by_value(child_main)  # as it does with __main__
    try:
        payload: bytes
        if parcel is None:
            payload = cloudpickle.dumps(value, 5)
        else:
            payload = parcel.dump(value, cloudpickle.Pickler, cloudpickle.dumps)
    except (MemoryError, ItemTooLarge):
        raise
    except Exception as error:  # a value's own __reduce__ may raise anything
        tried = f"pickle: {_say(first)}; cloudpickle: " if first else "cloudpickle: "
        raise NotSerializable("value", None, _type_name(value), tried + _say(error)) from error
    return payload


class _ByValue:
    """Code travels as byte code, which another version of Python runs into the ground: so it says its version."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload

    def __reduce__(self) -> tuple[Any, ...]:
        return load_by_value, (sys.version_info[:2], self._payload)


def load_by_value(version: tuple[int, int], payload: bytes) -> Any:
    """Give back what cloudpickle took; inside an envelope that was verified. Raises RuntimeError."""
    _check_version(version)
    return Loader(io.BytesIO(payload)).load()


def _check_version(version: tuple[int, int]) -> None:
    if tuple(version) != sys.version_info[:2]:
        here, there = (".".join(map(str, v)) for v in (sys.version_info[:2], version))
        raise RuntimeError(
            f"it was sent by value from Python {there}, and this is Python {here}: run the same Python on both "
            "sides, or put functions and classes into a module that both sides can import"
        )


class _Beside:
    """A pickle without its large buffers, which it names."""

    def __init__(self, job: str, parts: tuple[Part, ...], payload: bytes, by_value: bool) -> None:
        named = tuple(tuple(part) for part in parts)
        self._args = (job, named, payload, sys.version_info[:2] if by_value else None)

    def __reduce__(self) -> tuple[Any, ...]:
        return load_beside, self._args


def load_beside(job: str, parts: tuple[Any, ...], payload: bytes, version: tuple[int, int] | None) -> Any:
    """Give back what a parcel was taken of; inside an envelope that was verified.

    Raises AsideLost, BadEnvelope, RuntimeError.
    """
    if version is not None:
        _check_version(version)
    return rebuild(job, parts, payload)


def _dump_plain(value: object) -> bytes:
    try:
        payload: bytes = msgpack.packb(value, unicode_errors="surrogatepass")
    except MemoryError:
        raise
    except Exception as error:  # TypeError, ValueError, OverflowError, by the value's type
        raise NotSerializable(
            "value",
            None,
            _type_name(value),
            f"msgpack: {_say(error)}; without a key only None, bool, int (64 bits), float, str, "
            "bytes, list and dict can be sent: set LASTCALL_KEY on both sides to send any value",
        ) from error
    return payload


def not_deserializable(error: Exception) -> NotDeserializable:
    """What to raise when a genuine payload fails to load with this error."""
    module = error.name if isinstance(error, ModuleNotFoundError) else None
    return NotDeserializable(_say(error), module or "")


def _why_other_kind(kind: int, keyed: bool) -> str:
    if kind == _PLAIN and keyed:
        return "expected one that is signed, got one without a key: set LASTCALL_KEY at the sender too"
    if kind == _KEYED and not keyed:
        return "it is signed, but this side has no key: set LASTCALL_KEY to the sender's"
    return (
        f"expected version {_VERSION} (first byte {_KEYED if keyed else _PLAIN:#04x}), "
        f"got first byte {kind:#04x}: run the same version of lastcall on both sides"
    )


def _say(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _type_name(value: object) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
