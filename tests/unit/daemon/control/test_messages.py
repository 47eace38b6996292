"""Control messages over a socket pair, and jobs as messages."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omewd.client.client import Client
from omewd.errors import OmewdError, RingFullError, StreamFailedError, StreamStoppedError
from omewd.model.spec.dimensions import parse_dims
from omewd.model.spec.spec import StreamSpec
from omewd.protocol.messages import MAX_DESCRIPTORS, MAX_MESSAGE_BYTES, MAX_PACKET_BYTES, decode, encode, receive, send

Channel = tuple[socket.socket, socket.socket]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@pytest.fixture
def channel() -> Iterator[Channel]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


def message_of(size: int) -> dict[str, str]:
    return {"a": "x" * (size - len('{"a":""}'))}


@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_a_message_comes_back_as_it_was(message: dict[str, object]) -> None:
    assert decode(encode(message)) == message


@given(st.binary(max_size=200))
def test_bytes_that_nobody_vouches_for_are_a_message_or_an_error(data: bytes) -> None:
    try:
        assert isinstance(decode(data), dict)
    except OmewdError as error:
        assert error.code == "bad_message"  # noqa: PT017


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"1", b"null", b'"text"', b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000, b"9" * 5000, b"{}{}"],
)
def test_what_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(OmewdError, match="one JSON object") as error:
        decode(data)
    assert error.value.code == "bad_message"


def test_a_message_at_the_limit_goes_through_and_one_over_it_does_not(channel: Channel) -> None:
    ours, theirs = channel
    send(ours, message_of(MAX_MESSAGE_BYTES))
    received = receive(theirs)
    assert received is not None
    assert received[0] == message_of(MAX_MESSAGE_BYTES)
    with pytest.raises(OmewdError, match=str(MAX_MESSAGE_BYTES)) as error:
        send(ours, message_of(MAX_MESSAGE_BYTES + 1))
    assert error.value.code == "too_large"
    with pytest.raises(BlockingIOError):
        receive(theirs)


def test_a_message_that_is_cut_off_is_refused_whole(channel: Channel) -> None:
    ours, theirs = channel
    ours.send(json.dumps(message_of(MAX_PACKET_BYTES + 1)).encode())
    with pytest.raises(OmewdError, match="limit") as error:
        receive(theirs)
    assert error.value.code == "too_large"
    send(ours, {"op": "next"})
    assert receive(theirs) == ({"op": "next"}, [])


def test_a_large_message_takes_its_descriptors_along(channel: Channel) -> None:
    ours, theirs = channel
    with open(os.devnull) as extra:
        send(ours, message_of(MAX_PACKET_BYTES + 1), (extra.fileno(),))
        received = receive(theirs)
        assert received is not None
        message, [descriptor] = received
        assert message == message_of(MAX_PACKET_BYTES + 1)
        assert os.path.sameopenfile(descriptor, extra.fileno())
        os.close(descriptor)


def unsealed() -> int:
    memory = os.memfd_create("m", os.MFD_ALLOW_SEALING)
    os.write(memory, b'{"op":"status"}')
    return memory


def never_ending() -> int:
    reading, writing = os.pipe()
    os.close(writing)
    return reading


def too_large() -> int:
    memory = os.memfd_create("m", os.MFD_ALLOW_SEALING)
    os.truncate(memory, MAX_MESSAGE_BYTES + 1)
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    return memory


@pytest.mark.parametrize("make", [unsealed, never_ending, too_large, None])
def test_memory_that_could_change_or_is_none_is_refused(channel: Channel, make: Callable[[], int] | None) -> None:
    ours, theirs = channel
    sent = [make()] if make else []
    before = open_descriptors()
    socket.send_fds(ours, [b'{"in_memory":15}'], sent)
    with pytest.raises(OmewdError) as error:
        receive(theirs)
    assert error.value.code == ("too_large" if make is too_large else "bad_message")
    assert open_descriptors() == before
    for descriptor in sent:
        os.close(descriptor)


def test_messages_keep_their_borders(channel: Channel) -> None:
    ours, theirs = channel
    for number in range(3):
        send(ours, {"n": number})
    assert [receive(theirs) for _ in range(3)] == [({"n": number}, []) for number in range(3)]


def test_the_end_is_none(channel: Channel) -> None:
    ours, theirs = channel
    send(ours, {"last": 1})
    ours.close()
    assert receive(theirs) == ({"last": 1}, [])
    assert receive(theirs) is None


def test_descriptors_arrive_in_order(channel: Channel) -> None:
    ours, theirs = channel
    sent = [os.memfd_create(f"{n}") for n in range(MAX_DESCRIPTORS)]
    for number, descriptor in enumerate(sent):
        os.write(descriptor, bytes([number]))
    send(ours, {}, tuple(sent))
    received = receive(theirs)
    assert received is not None
    message, descriptors = received
    assert message == {}
    assert [os.pread(d, 1, 0) for d in descriptors] == [bytes([n]) for n in range(MAX_DESCRIPTORS)]
    for descriptor in (*sent, *descriptors):
        os.close(descriptor)


def test_descriptors_are_not_inherited(channel: Channel) -> None:
    ours, theirs = channel
    with open(os.devnull) as extra:
        send(ours, {}, (extra.fileno(),))
    received = receive(theirs)
    assert received is not None
    [descriptor] = received[1]
    inheritable = os.get_inheritable(descriptor)
    os.close(descriptor)
    assert not inheritable


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208


@pytest.mark.parametrize("data", [b"not JSON", b"[1]", b"x" * (MAX_PACKET_BYTES + 5)])
def test_descriptors_beside_a_refused_message_are_closed(channel: Channel, data: bytes) -> None:
    ours, theirs = channel
    before = open_descriptors()
    with open(os.devnull) as extra:
        socket.send_fds(ours, [data], [extra.fileno(), extra.fileno()])
    with pytest.raises(OmewdError):
        receive(theirs)
    assert open_descriptors() == before


def test_more_descriptors_than_expected_do_not_stay_open(channel: Channel) -> None:
    ours, theirs = channel
    before = open_descriptors()
    with open(os.devnull) as extra:
        socket.send_fds(ours, [b"{}"], [extra.fileno()] * (MAX_DESCRIPTORS + 7))
    with pytest.raises(OmewdError, match=f"{MAX_DESCRIPTORS + 7} descriptors"):
        receive(theirs)
    assert open_descriptors() == before


def test_nothing_to_read_says_so(channel: Channel) -> None:
    with pytest.raises(BlockingIOError):
        receive(channel[1])


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("ring_full", RingFullError),
        ("stream_stopped", StreamStoppedError),
        ("too_many_frames", StreamStoppedError),
        ("stream_failed", StreamFailedError),
        ("disk_full", OmewdError),
        ("never heard of", OmewdError),
    ],
)
def test_an_error_comes_back_as_what_it_was(code: str, kind: type[OmewdError]) -> None:
    error = OmewdError.from_dict(decode(encode(OmewdError(code, "message", "remedy").to_dict())))
    assert type(error) is kind
    assert (error.code, error.message, error.remedy) == (code, "message", "remedy")


def test_an_error_without_fields_is_still_an_error() -> None:
    assert OmewdError.from_dict({}).code == "error"


@pytest.mark.parametrize(
    ("message", "remedy", "text"),
    [
        ("It broke", "", "It broke"),
        ("It broke", "Mend it", "It broke. Mend it"),
        ("It broke.", "Mend it", "It broke. Mend it"),
    ],
)
def test_an_error_is_one_line(message: str, remedy: str, text: str) -> None:
    assert str(OmewdError("x", message, remedy)) == text


def test_what_programs_have_becomes_what_json_has() -> None:
    spec = StreamSpec(name="a", dimensions=parse_dims("t:5,y:4,x:5"))
    message = {
        "count": np.int64(5),
        "scale": np.float32(0.5),
        "coords": np.arange(2),
        "dtype": np.uint16,
        "other": np.dtype(">i2"),
        "output": Path("a.zarr"),
        "spec": spec,
        "dimensions": spec.dimensions,
    }
    assert decode(encode(message)) == {
        "count": 5,
        "scale": 0.5,
        "coords": [0, 1],
        "dtype": "uint16",
        "other": "int16",
        "output": "a.zarr",
        "spec": spec.model_dump(mode="json"),
        "dimensions": [dim.model_dump(mode="json") for dim in spec.dimensions],
    }


@pytest.mark.parametrize("value", [{1, 2}, 1j, float("nan"), object(), b"x", {(1, 2): 3}])
def test_what_json_can_not_say_is_refused(value: object) -> None:
    with pytest.raises(OmewdError) as error:
        encode({"value": value})
    assert error.value.code == "bad_message"


# -- attachments -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 100_000, MAX_MESSAGE_BYTES])
@pytest.mark.parametrize("inline", [True, False])
def test_an_attachment_comes_with_its_message(channel: Channel, size: int, inline: bool) -> None:
    ours, theirs = channel
    message = {"op": "x", "text": "" if inline else "y" * 20_000}
    with open(os.devnull) as null:
        held_bytes = send(ours, message, (null.fileno(),), attachment=b"a" * size)
    assert held_bytes == size + (0 if inline else len(encode({**message, "attached": size})))
    received = receive(theirs)
    assert received is not None
    assert received[0] == {**message, "attachment": b"a" * size}
    assert len(received[1]) == 1
    os.close(received[1][0])


def test_an_attachment_that_is_too_large_is_not_sent(channel: Channel) -> None:
    with pytest.raises(OmewdError) as error:
        send(channel[0], {}, attachment=b"a" * (MAX_MESSAGE_BYTES + 1))
    assert error.value.code == "too_large"


def test_nobody_can_write_an_attachment_into_the_message(channel: Channel) -> None:
    ours, theirs = channel
    send(ours, {"op": "x", "attachment": "spoofed"})
    assert receive(theirs) == ({"op": "x"}, [])
    send(ours, {"op": "x", "attached": 5})
    with pytest.raises(OmewdError, match="without a descriptor"):
        receive(theirs)


def test_an_attachment_that_is_not_sealed_is_refused_and_closed(channel: Channel, tmp_path: Path) -> None:
    ours, theirs = channel
    (tmp_path / "file").write_bytes(b"{}")
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with (tmp_path / "file").open("rb") as file:
        send(ours, {"op": "x", "attached": 2}, (file.fileno(),))
    with pytest.raises(OmewdError) as error:
        receive(theirs)
    assert error.value.code == "bad_message"
    assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.mark.parametrize("size", [1000, 50_000])
def test_who_receives_says_how_long_a_message_may_be(channel: Channel, size: int) -> None:
    ours, theirs = channel
    send(ours, message_of(size))
    assert receive(theirs, size) == (message_of(size), [])
    send(ours, message_of(size))
    with pytest.raises(OmewdError) as error:
        receive(theirs, size - 1)
    assert error.value.code == "too_large"


@pytest.mark.parametrize("timeout", ["5", True, float("nan"), object(), [5]])
def test_a_client_waits_for_a_number_of_seconds(timeout: Any, tmp_path: Path) -> None:
    with pytest.raises(OmewdError) as error:
        Client(tmp_path / "nothing.sock").wait("cam", timeout=timeout)
    assert error.value.code == "bad_timeout"
    assert error.value.remedy


@pytest.mark.parametrize("timeout", [5, 0.5, np.float32(1), np.int64(3), None, float("inf"), 0])
def test_any_number_of_seconds_is_taken(timeout: Any, tmp_path: Path) -> None:
    with pytest.raises(OmewdError) as error:
        Client(tmp_path / "nothing.sock").wait("cam", timeout=timeout)
    assert error.value.code == "no_daemon"
