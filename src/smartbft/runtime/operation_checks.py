"""The application's stateless check, as far as a replica trusts it: clients choose the bytes that it is given."""

from __future__ import annotations

import logging

from smartbft._fastpath.pool import encode_request, join_requests, split_requests
from smartbft.errors import InvariantViolation
from smartbft.limits import CHECK_FAILURE_FACTOR
from smartbft.runtime.application_watch import ApplicationWatch
from smartbft.smr.application import BatchStateMachine, name_operation
from smartbft.smr.per_operation import PerOperation

logger = logging.getLogger(__name__)


class OperationChecks:
    """Checks operations before they are ordered. What an operation makes the check raise refuses it, is logged with its
    traceback, and costs nobody else anything.

    A client can repeat such an operation as often as it likes, so it is logged the first time, and then whenever there
    have been `limits.CHECK_FAILURE_FACTOR` times as many.

    Args:
        application: whose check it is.
        watch: names checks that are slow, which stand in the way of everything else on the loop; None: nobody does.
    """

    def __init__(self, application: BatchStateMachine, watch: ApplicationWatch | None = None) -> None:
        self._application = application
        self._watch = watch or ApplicationWatch()
        self._failures = 0
        self._told_at = 1
        if isinstance(application, PerOperation):
            application.check_failed = self._failed

    def __call__(self, data: bytes) -> bytes:
        """One byte per request of a request list: 1 where the operation passes, else 0.

        Raises:
            InvariantViolation: the check says that something is wrong which no operation can bring about.
        """
        self._watch.began(lambda: f"the check of {len(split_requests(data))} requests")
        try:
            return self._verdicts(data)
        except (InvariantViolation, KeyboardInterrupt):
            raise
        except BaseException:
            return bytes(self._passes(*request) for request in split_requests(data))
        finally:
            self._watch.ended()

    def close(self) -> None:
        """Watch nothing any more."""
        self._watch.close()

    def why_refused(self, operation: bytes) -> tuple[int, str]:
        """Code and text for the client of an operation that was refused; none where the application fails to say."""
        try:
            return self._application.why_refused(operation)
        except (InvariantViolation, KeyboardInterrupt):
            raise
        except BaseException:  # its failure is in the log, from the check itself
            return 0, ""

    def _verdicts(self, data: bytes) -> bytes:
        checks = self._application.check_batch(data)
        if not isinstance(checks, bytes):
            raise TypeError(f"check_batch returned {type(checks).__name__}, not bytes")
        return checks

    def _passes(self, client: bytes, session: int, sequence: int, operation: bytes, signature: bytes) -> bool:
        """The verdict on one of several requests, whose check together has failed."""
        try:
            request = encode_request(client, session, sequence, operation, signature)
            return self._verdicts(join_requests([request])) == b"\1"
        except (InvariantViolation, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._failed(operation, error)
            return False

    def _failed(self, operation: bytes, error: BaseException) -> None:
        self._failures += 1
        if self._failures < self._told_at:
            return
        self._told_at = CHECK_FAILURE_FACTOR * self._failures
        logger.error(
            "the application's check failed at operation %s, which is refused: %r (a check that refuses an operation "
            "raises Rejected); %d so far, told again at %d",
            name_operation(operation),
            error,
            self._failures,
            self._told_at,
            exc_info=error,
        )
