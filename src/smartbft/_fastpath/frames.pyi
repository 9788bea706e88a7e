"""Frames: hostile bytes in, requests and protocol messages out, one native call per socket read.

A frame is ``u32 length | u8 kind | payload`` (little-endian; the length counts kind and payload).
"""

from typing_extensions import Buffer

from .pool import RequestPool

HELLO: int
REQUEST: int
REPLY: int
MESSAGE: int
STATUS: int
STATUS_ANSWER: int

class FrameReader:
    """Reassembles the frames of one connection."""

    def __init__(self, max_payload: dict[int, int], pool: RequestPool | None = None, source: int = 0) -> None:
        """
        Args:
            max_payload: kinds accepted on this connection and the largest payload in bytes of each; a frame of any other
                kind, or a longer one, is refused as soon as its header is seen, before anything is allocated.
            pool: where the payloads of REQUEST frames are admitted; without it they are returned like the rest.
            source: the connection's number in the pool.
        """
    def feed(self, data: Buffer, now: int) -> list[tuple[int, bytes]]:
        """Take what the socket delivered; returns the complete frames `(kind, payload)` other than admitted requests.

        Args:
            now: microseconds; the arrival time of the requests.
        Raises:
            RemoteProtocolError: unknown kind, length 0 or over the limit, a malformed request.
        """
    def buffered(self) -> int: ...

def frame(kind: int, payload: Buffer) -> bytes: ...

class ReplyMatcher:
    """Client side: collects replies of many requests from all replicas and finds those with enough equal ones."""

    def __init__(self, replicas: int, quorum: int, max_payload: dict[int, int] | None = None) -> None:
        """
        Args:
            replicas: how many there are, at most 64.
            quorum: equal replies that complete a request. Refusals are equal if their status is; of those that complete a
                request, the one with the middle agreed time is reported. A result replaces a refusal by the same replica.
            max_payload: frames accepted from replicas, as for `FrameReader`; by default HELLO, REPLY and STATUS_ANSWER.
        """
    def expect(self, digests: Buffer, first_tag: int, now: int) -> None:
        """Requests just sent: `32 * count` bytes of digests; they get the tags `first_tag`, `first_tag + 1`, ...
        `now` in microseconds (for the latency)."""
    def forget(self, digest: bytes) -> None: ...
    def reset(self, replica: int) -> None:
        """The connection to `replica` was replaced: what was left of a frame on the old one is void."""
    def feed(self, replica: int, data: Buffer, now: int) -> int:
        """Take bytes from the connection to `replica` (frames of kind REPLY; others are kept, see `others`); returns how
        many requests were completed by them. A replica counts once per request.

        Raises:
            RemoteProtocolError
        """
    def completed(self) -> list[tuple[int, int, bytes]]:
        """`(tag, status, reply)` of the requests completed since the last call; `reply` is the reply payload without its
        replica field. Not kept when `keep_replies(False)` was called."""
    def keep_replies(self, keep: bool) -> None: ...
    def others(self) -> list[tuple[int, int, bytes]]:
        """Frames `(replica, kind, payload)` that were no replies, since the last call."""
    def outstanding(self) -> int: ...
    def latencies(self) -> bytes:
        """Latencies in microseconds of completed requests since the last call, packed as native unsigned 32-bit."""
    def statuses(self) -> dict[int, int]:
        """How many requests completed with each reply status since the start."""
    def results(self) -> dict[int, int]:
        """How many requests with status EXECUTED had each first result byte (an application's code) since the start."""
    def acknowledged(self) -> bytes:
        """Digests of all requests completed with status EXECUTED since the start (32 bytes each)."""
