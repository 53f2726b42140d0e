"""uplab/hostside/frames.py: messages of who knows the token, whole and in order, or none."""

import socket
from collections.abc import Iterator

import pytest

from uplab.hostside import frames
from uplab.hostside.frames import FrameError, Frames

TOKEN = b"t" * 32
Ends = tuple[Frames, Frames]


def shake(run: socket.socket, agent: socket.socket, token: bytes = TOKEN) -> Ends:
    """Both ends of a connection, the run's with this token."""
    ours = frames.challenge()
    answered = frames.answer(token, ours)
    proof = frames.prove(TOKEN, ours, answered)
    frames.check_proof(token, ours, answered, proof)
    return (
        Frames.of(run, token, ours, answered, agent=False),
        Frames.of(agent, TOKEN, ours, answered, agent=True),
    )


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    run, agent = socket.socketpair()
    run.settimeout(5)
    agent.settimeout(5)
    with run, agent:
        yield run, agent


def test_messages_arrive_with_their_bytes(pair: tuple[socket.socket, socket.socket]) -> None:
    run, agent = shake(*pair)
    run.send({"do": "x", "n": 1})
    run.send({"do": "ä"}, b"\0data")
    assert agent.receive() == ({"do": "x", "n": 1}, b"")
    assert agent.receive() == ({"do": "ä"}, b"\0data")
    agent.send({"event": "y"}, b"z" * 100_000)
    assert run.receive() == ({"event": "y"}, b"z" * 100_000)


def test_who_does_not_know_the_token_is_not_listened_to(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    with pytest.raises(FrameError, match="does not know the token"):
        shake(*pair, token=b"u" * 32)
    ours = frames.challenge()
    answered = frames.answer(TOKEN, ours)
    with pytest.raises(FrameError, match="does not know the token"):
        frames.check_proof(TOKEN, ours, answered, bytes(frames.PROOF_BYTES))


def test_what_was_said_on_another_connection_is_not_believed(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours = frames.challenge()
    answered = frames.answer(TOKEN, ours)
    with pytest.raises(FrameError):
        frames.prove(TOKEN, frames.challenge(), answered)
    run, _ = shake(*pair)
    _, other = shake(*pair)
    run.send({"do": "x"})
    with pytest.raises(FrameError, match="altered"):
        other.receive()


@pytest.mark.parametrize("at", [0, 7, 20, 39, 44, -1])
def test_an_altered_message_is_refused(pair: tuple[socket.socket, socket.socket], at: int) -> None:
    run, agent = shake(*pair)
    sender, receiver = socket.socketpair()
    with sender, receiver:
        run.connection = sender
        run.send({"do": "start"}, b"1234")
        sent = bytearray(receiver.recv(1 << 16))
    sent[at] ^= 0x40
    pair[0].sendall(bytes(sent))
    pair[0].shutdown(socket.SHUT_WR)
    with pytest.raises(OSError, match=r"altered|a message of|ended the connection"):
        agent.receive()


def test_a_message_that_is_sent_again_is_refused(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    run, agent = shake(*pair)
    sender, receiver = socket.socketpair()
    with sender, receiver:
        run.connection = sender
        run.send({"do": "start"})
        sent = receiver.recv(1 << 16)
    pair[0].sendall(sent + sent)
    assert agent.receive()[0] == {"do": "start"}
    with pytest.raises(FrameError, match="altered"):
        agent.receive()


def test_a_message_too_large_to_be_one_is_refused_before_it_is_kept(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    _, agent = shake(*pair)
    pair[0].sendall(b"\xff" * 40)
    with pytest.raises(FrameError, match="a message of 8589934630 bytes"):
        agent.receive()


def test_the_end_of_a_connection_is_an_error(pair: tuple[socket.socket, socket.socket]) -> None:
    _, agent = shake(*pair)
    pair[0].close()
    with pytest.raises(ConnectionResetError):
        agent.receive()
    with pytest.raises(ConnectionResetError):
        frames.receive_exactly(pair[1], 4)
