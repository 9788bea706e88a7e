"""What a replica tells about itself: for operators, tests and benchmarks, as JSON on the client port."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from smartbft.errors import MalformedMessage
from smartbft.limits import (
    KEY_BYTES,
    MAX_DIGEST_SHARE,
    MAX_READ_BYTES,
    MAX_READ_SHARE,
    MAX_STATUS_SHARE,
    READS_AT_ONCE,
    STATUS_INTERVAL_SECONDS,
)
from smartbft.smr.application import BatchStateMachine

logger = logging.getLogger(__name__)


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The payload of a STATUS frame: where the replica stands, or one thing in particular.

    Attributes:
        digest: include the application's state digest, which takes a moment.
        sessions: a client's public key: only the sessions that it has open.
        read: a query that the application answers without ordering it: only that answer. Like `sessions` in base64.
    """

    digest: bool = False
    sessions: bytes = b""
    read: bytes = b""

    @property
    def particular(self) -> bool:
        """Whether the answer is for this question alone."""
        return bool(self.sessions or self.read)


_decoder = msgspec.json.Decoder(Question)
_answer_decoder = msgspec.json.Decoder(dict[str, Any])


def decode_question(payload: bytes) -> Question:
    """Raises MalformedMessage: not the JSON of a `Question`, or it asks two things at once."""
    try:
        question = _decoder.decode(payload)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise MalformedMessage(f"a question about the status does not decode: {error}") from None
    if question.digest + bool(question.sessions) + bool(question.read) > 1:
        raise MalformedMessage("a question about the status asks two things at once")
    if question.sessions and len(question.sessions) != KEY_BYTES:
        raise MalformedMessage(f"a client key has {KEY_BYTES} bytes, not {len(question.sessions)}")
    return question


def encode_question(question: Question) -> bytes:
    """The payload of a STATUS frame."""
    return msgspec.json.encode(question)


def encode_answer(answer: dict[str, Any]) -> bytes:
    """The payload of a STATUS-ANSWER frame."""
    return json.dumps(answer, sort_keys=True).encode()


def decode_answer(payload: bytes) -> dict[str, Any]:
    """Raises MalformedMessage: not a JSON object."""
    try:
        return _answer_decoder.decode(payload)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise MalformedMessage(f"a status does not decode: {error}") from None


def facts_of(application: BatchStateMachine) -> dict[str, Any]:
    """What the application tells of its state, or why that cannot be told.

    Anybody may ask, and nothing depends on the answer: a mistake in it must not end the replica.
    """
    try:
        facts = application.facts()
        json.dumps(facts, sort_keys=True)
    except Exception as error:
        logger.exception("the application's facts cannot be told")
        return {"error": f"{type(error).__name__}: {error}"}
    return facts


def read_from(application: BatchStateMachine, query: bytes) -> dict[str, Any]:
    """What the application answers to `query` without ordering it, in base64, or why it does not.

    Anybody may ask, and nothing depends on the answer: a mistake in it must not end the replica.
    """
    try:
        result = application.read(query)
    except Exception as error:
        logger.exception("the application failed to answer a query")
        return {"problem": f"{type(error).__name__}: {error}"}
    if result is None:
        return {"problem": "the application answers this only when it is ordered"}
    if len(result) > MAX_READ_BYTES:
        return {"problem": f"the answer has {len(result)} bytes; without ordering at most {MAX_READ_BYTES} are sent"}
    return {"result": base64.b64encode(result).decode()}


Facts = dict[str, Any]
_Done = Callable[[Facts], None]
#: Takes questions, and a function to call with the answers and the seconds of CPU that they cost.
_Look = Callable[[Sequence[Question], Callable[[list[Facts], float], None]], None]


class StatusDesk:
    """Answers questions, many with one answer: whoever asks, and however often, the replica has work to do.

    Args:
        facts: what the replica's parts count.
        about_the_state: asks the application between two batches; calls back with digest, instance and figures.
        look: answers particular questions.
    """

    def __init__(self, facts: Callable[[], Facts], about_the_state: Callable[[_Done], None], look: _Look) -> None:
        self._facts = facts
        self._about_the_state = about_the_state
        self._look = look
        self._particular: deque[tuple[Question, _Done]] = deque()
        self._looking = False
        self._look_at = 0.0
        self._loop = asyncio.get_running_loop()
        self._plain: list[_Done] = []
        self._with_digest: list[_Done] = []
        self._plain_at = 0.0
        self._digest_at = 0.0
        self._digest_began: float | None = None
        self._timers: set[asyncio.TimerHandle] = set()

    def ask(self, question: Question, done: _Done) -> None:
        """Have `done` called with the answer, soon."""
        if question.particular:
            self._particular.append((question, done))
            if not self._looking:
                self._looking = True
                self._at(self._look_at, self._look_up)
            return
        waiting = self._with_digest if question.digest else self._plain
        waiting.append(done)
        if len(waiting) == 1:
            # Not at once: whoever was just answered may ask again before it is known what the answers cost.
            self._loop.call_soon(self._schedule, question)

    def _schedule(self, question: Question) -> None:
        if not question.digest:
            self._at(self._plain_at, self._tell)
        elif self._digest_began is None:
            self._at(self._digest_at, self._digest)

    def close(self) -> None:
        """Answer nobody any more."""
        for timer in self._timers:
            timer.cancel()
        self._plain.clear()
        self._with_digest.clear()
        self._particular.clear()

    def _at(self, when: float, callback: Callable[[], None]) -> None:
        def due() -> None:
            self._timers.discard(timer)
            callback()

        timer = self._loop.call_at(when, due)
        self._timers.add(timer)

    def _tell(self) -> None:
        waiting, self._plain = self._plain, []
        began = time.thread_time()
        facts = self._facts()
        for done in waiting:
            done(facts)
        self._plain_at = self._loop.time() + _pause_after(time.thread_time() - began)

    def _look_up(self) -> None:
        batch = [self._particular.popleft() for _ in range(min(READS_AT_ONCE, len(self._particular)))]

        def answered(answers: list[Facts], cost: float) -> None:
            for (_, done), answer in zip(batch, answers, strict=True):
                done(answer)
            self._look_at = self._loop.time() + max(STATUS_INTERVAL_SECONDS, cost * (1 / MAX_READ_SHARE - 1))
            self._looking = bool(self._particular)
            if self._looking:
                self._at(self._look_at, self._look_up)

        self._look([question for question, _ in batch], answered)

    def _digest(self) -> None:
        self._digest_began = self._loop.time()
        self._about_the_state(self._digested)

    def _digested(self, state: Facts) -> None:
        now = self._loop.time()
        took = now - (self._digest_began or now)
        self._digest_began = None
        waiting, self._with_digest = self._with_digest, []
        began_to_tell = time.thread_time()
        facts = self._facts() | state
        for done in waiting:
            done(facts)
        telling = _pause_after(time.thread_time() - began_to_tell)
        self._digest_at = now + max(telling, took * (1 / MAX_DIGEST_SHARE - 1))


def _pause_after(cost: float) -> float:
    """Seconds until the next answer, after one that has cost the loop so many: a crowd may ask as often as it likes."""
    return max(STATUS_INTERVAL_SECONDS, cost * (1 / MAX_STATUS_SHARE - 1))


def thread_times() -> dict[str, float]:
    """CPU seconds (user and system) of each thread of this process, by name; threads of one name are added up.

    Elsewhere than on Linux: the calling thread and the process only.
    """
    tasks = Path("/proc/self/task")
    try:
        found = list(tasks.iterdir()) if sys.platform.startswith("linux") else []
    except OSError:  # no such file system, or no file descriptor left
        found = []
    if not found:
        return {"loop": time.thread_time(), "process": time.process_time()}
    ticks = os.sysconf("SC_CLK_TCK")
    times: dict[str, float] = {}
    for task in found:
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
