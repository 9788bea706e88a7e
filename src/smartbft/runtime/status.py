"""What a replica tells about itself: for operators, tests and benchmarks, as JSON on the client port."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from smartbft.errors import MalformedMessage


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The payload of a STATUS frame. `digest`: include the application's state digest, which takes a moment."""

    digest: bool = False


_decoder = msgspec.json.Decoder(Question)
_answer_decoder = msgspec.json.Decoder(dict[str, Any])


def decode_question(payload: bytes) -> Question:
    """Raises MalformedMessage: not the JSON of a `Question`."""
    try:
        return _decoder.decode(payload)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise MalformedMessage(f"a question about the status does not decode: {error}") from None


def encode_answer(answer: dict[str, Any]) -> bytes:
    """The payload of a STATUS-ANSWER frame."""
    return json.dumps(answer, sort_keys=True).encode()


def decode_answer(payload: bytes) -> dict[str, Any]:
    """Raises MalformedMessage: not a JSON object."""
    try:
        return _answer_decoder.decode(payload)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise MalformedMessage(f"a status does not decode: {error}") from None


def thread_times() -> dict[str, float]:
    """CPU seconds (user and system) of each thread of this process, by name; threads of one name are added up.

    Elsewhere than on Linux: the calling thread and the process only.
    """
    tasks = Path("/proc/self/task")
    if not sys.platform.startswith("linux") or not tasks.exists():
        return {"loop": time.thread_time(), "process": time.process_time()}
    ticks = os.sysconf("SC_CLK_TCK")
    times: dict[str, float] = {}
    for task in tasks.iterdir():
        try:
            line = (task / "stat").read_text()
        except OSError:  # the thread ended meanwhile
            continue
        # The name stands in parentheses and may hold anything; the fields after the last one are fixed.
        name, _, rest = line.partition("(")[2].rpartition(")")
        fields = rest.split()
        label = "loop" if int(task.name) == os.getpid() else name
        times[label] = times.get(label, 0.0) + (int(fields[11]) + int(fields[12])) / ticks
    return times
