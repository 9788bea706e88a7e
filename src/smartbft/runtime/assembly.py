"""Puts the parts of one replica together, starts them in order, and takes them down."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from smartbft import limits
from smartbft._fastpath.log import HEADER_SIZE, SEGMENT_HEADER_SIZE
from smartbft._fastpath.pool import RequestPool, Verifier
from smartbft.config import Genesis, ReplicaConfig, check_schedule, format_size
from smartbft.core.effects import ServeDecisions
from smartbft.core.records import largest_body_bytes
from smartbft.core.recovery import RecoveredState, recover
from smartbft.core.replica import ASYNC_LEVEL, MEMORY_LEVEL, SYNC_LEVEL
from smartbft.core.replica import Replica as Core
from smartbft.core.validation import Validator
from smartbft.core.vouching import pool_arguments
from smartbft.crypto.domains import Domains
from smartbft.crypto.signatures import Ed25519KeyVerifier
from smartbft.errors import ApplicationFailed, ConfigError, LocalProtocolError
from smartbft.protocols.mod_smart import ModSmart
from smartbft.runtime.application_watch import ApplicationWatch
from smartbft.runtime.clients import ClientGate
from smartbft.runtime.driver import Driver
from smartbft.runtime.evidence import EvidenceDesk
from smartbft.runtime.executor import SliceExecutor, ThreadExecutor
from smartbft.runtime.failing import Failing
from smartbft.runtime.journal import Journal, Log
from smartbft.runtime.lookups import Lookups
from smartbft.runtime.network import Network, Secrets
from smartbft.runtime.new_key import KeyDesk
from smartbft.runtime.operation_checks import OperationChecks
from smartbft.runtime.peers import PeerChannels
from smartbft.runtime.problems import with_absent
from smartbft.runtime.serving import DecisionServer
from smartbft.runtime.snapshots import SnapshotKeeper
from smartbft.runtime.state_digests import NOTHING, ask_for_digest
from smartbft.runtime.status import Question, StatusDesk, decode_question, encode_answer, thread_times
from smartbft.runtime.verification import VerificationPump
from smartbft.smr.application import BatchStateMachine
from smartbft.storage import (
    SNAPSHOT_FOLDER,
    ConsensusKeys,
    Files,
    FolderFiles,
    Lives,
    MemoryFiles,
    ReplicaLog,
    SnapshotStore,
    Trials,
)
from smartbft.types import CHANNEL

logger = logging.getLogger(__name__)

LEVELS = {"memory": MEMORY_LEVEL, "async": ASYNC_LEVEL, "sync": SYNC_LEVEL}
# The loop thread never waits behind the verifiers.
_VERIFY_NICE = 10
# A replica tells the others in every progress interval how far it is: who has not for so many is frozen or cut off.
_SILENT_INTERVALS = 3


class RunningReplica:
    """The parts of a replica, put together for one run.

    Args:
        config, genesis: what it is.
        application: in its initial state.
        secrets: its keys.
        fail: called with an error after which the replica must not go on.
    """

    def __init__(
        self,
        config: ReplicaConfig,
        genesis: Genesis,
        application: BatchStateMachine,
        secrets: Secrets,
        fail: Callable[[BaseException], None],
    ) -> None:
        self.recovered = asyncio.Event()
        self._config = config
        self._genesis = genesis
        self._application = application
        self._fail = fail
        self._id = config.replica
        self._loop = asyncio.get_running_loop()
        self._domains = Domains(self._genesis.chain_id)
        self._level = LEVELS[self._config.persistence]
        self._sequential = self._config.signature_check == "sequential"
        _check_authentication(config, genesis, application)
        check_schedule(config.persistence, genesis.parameters, str(config.config_path))
        self._readers: list[int] = []
        self._failing = Failing(genesis.parameters.resend_interval, fail)
        self._refusing = False
        self._log: ReplicaLog | None = None
        self._verifier: Verifier | None = None
        self._executor: ThreadExecutor | SliceExecutor | None = None
        self._server: DecisionServer | None = None
        self._pool = self._make_pool()
        self._driver: Driver | None = None
        self._core = self._make_core(secrets)
        self._peers = PeerChannels(
            lambda peer: self._driving().peer_connected(peer),
            lambda peer, payload: self._driving().message(peer, payload),
            fail,
            genesis.view.f,
        )
        self._clients = ClientGate(
            self._pool,
            arrived=lambda: self._driving().requests_arrived(),
            question=self._answer,
            forgotten=self._forget,
            failed=fail,
            proven=genesis.parameters.request_authentication == CHANNEL,
        )
        self._network = Network(
            genesis, self._id, secrets, self._level, self._peers, self._clients, lambda: self._core.agreed_time
        )
        self._evidence = EvidenceDesk(config.evidence_folder, genesis.chain_id)
        self._desk = StatusDesk(self._facts, self._about_the_state, self._look_up)
        self._answered: tuple[dict[str, Any], bytes] = ({}, b"{}")
        self._checks: OperationChecks | None = None
        self._pump: VerificationPump | None = None
        self._store = self._snapshot_store(MemoryFiles())
        self._keeper: SnapshotKeeper | None = None
        self._replay_until = 0
        self._lives = Lives(config.home, config.data_folder, config.run_folder)
        self._learns = False
        self._key_files = ConsensusKeys(config.data_folder)
        self._keys = KeyDesk(self._key_files, self._lives, lambda made: self._driving().take(made))

    def _make_core(self, secrets: Secrets) -> Core:
        return Core(
            self._id,
            self._genesis.view,
            self._domains,
            secrets.consensus,
            self._pool,
            self._genesis.parameters,
            permanent=secrets.permanent,
            verifier=Ed25519KeyVerifier(),
            level=self._level,
            ordering=ModSmart,
            record_votes=self._config.record_votes,
            make_pool=self._make_pool,
        )

    # --- start ---

    async def start(self, sockets: tuple[socket.socket, socket.socket] | None) -> None:
        """Read the log, start the threads, then listen and dial.

        Raises:
            ConfigError, StorageError: see `smartbft.runtime.node.Replica.start`.
        """
        state = await self._recover()
        application = self._application
        make = ThreadExecutor if application.native else SliceExecutor
        watched = self._genesis.parameters.request_timeout / 2_000_000
        self._executor = make(application, self._executed, self._failing.begin, ApplicationWatch(watched))
        self._keeper = self._make_keeper(self._executor)
        if state.snapshots.newest is not None:
            self._executor.restore(state.snapshots.newest.state, state.base)
        if not self._sequential:
            self._verifier = Verifier(self._verify_threads(), _VERIFY_NICE)
            self._checks = OperationChecks(application, ApplicationWatch(watched))
            self._pump = VerificationPump(
                self._pool,
                self._verifier,
                self._checks,
                self._clients.punish,
                self._loop,
                self._checks.why_refused,
            )
        self._driver = self._make_driver(self._executor, self._keeper)
        self._watch()
        self._replay_until = state.base + len(state.decisions)
        self._driver.start(state, self._pump)
        self._note_recovered()
        await self._network.start(sockets)

    async def _recover(self) -> RecoveredState:
        config = self._config
        lives = self._lives
        intact = lives.intact(config.persistence, config.record_votes)
        if not intact:
            await asyncio.to_thread(lives.lose)
        state = await self._read_log()
        state.intact = intact
        state.signers = [*await asyncio.to_thread(self._key_files.load)]
        await asyncio.to_thread(lives.begin, config.persistence, config.record_votes)
        return state

    async def _read_log(self) -> RecoveredState:
        if self._level == MEMORY_LEVEL:
            return RecoveredState()
        config = self._config
        _check_segment_size(config, self._genesis)

        store = self._snapshot_store(FolderFiles(config.data_folder / SNAPSHOT_FOLDER))

        def read() -> tuple[ReplicaLog, RecoveredState]:
            log = ReplicaLog(
                config.data_folder,
                self._genesis.chain_id,
                self._id,
                mode=config.persistence,
                segment_bytes=config.segment_bytes,
                sync_floor_seconds=config.sync_floor_seconds,
            )
            try:
                found = store.open()
                found.trial = self._trials().read()
                return log, recover(log.recovered(), self._domains, found)
            except BaseException:
                log.close()
                raise

        log, state = await asyncio.to_thread(read)
        self._log, self._store = log, store
        self._server = DecisionServer(
            log,
            self._domains,
            self._genesis.view.number,
            lambda: self._core.regency,
            self._peers,
            lambda event: self._driving().take(event),
            self._fail,
        )
        return state

    def _trials(self) -> Trials:
        return Trials(self._config.data_folder if self._level != MEMORY_LEVEL else None)

    def _snapshot_store(self, files: Files) -> SnapshotStore:
        """Snapshots are read and written on other threads than the loop's, so what checks their proofs is its own."""
        genesis = self._genesis
        validator = Validator(genesis.view, self._domains, Ed25519KeyVerifier(), genesis.parameters)
        return SnapshotStore(files, genesis.chain_id, validator.check_snapshot)

    def _make_driver(self, executor: ThreadExecutor | SliceExecutor, keeper: SnapshotKeeper) -> Driver:
        log: Log | None = self._log
        return Driver(
            self._core,
            self._core.validator,
            self._pool,
            Journal(log),
            immediate=self._log is None,
            peers=self._peers,
            clients=self._clients,
            executor=executor,
            snapshots=keeper,
            serve=self._server.serve if self._server is not None else _no_log_to_serve_from,
            report=self._evidence.report,
            keys=self._keys,
            regulate=self._regulate,
            fail=self._failed,
        )

    def _make_keeper(self, executor: ThreadExecutor | SliceExecutor) -> SnapshotKeeper:
        log = self._log
        return SnapshotKeeper(
            self._store,
            view=self._genesis.view.number,
            regency=lambda: self._core.regency,
            application=executor,
            peers=self._peers,
            forget=log.forget if log is not None else _no_log_to_forget,
            take=lambda event: self._driving().take(event),
            installed=lambda: self._driving().forget_replies(),
            failed=self._fail,
            trials=self._trials(),
        )

    def _make_pool(self) -> RequestPool:
        parameters = self._genesis.parameters
        return RequestPool(
            self._genesis.chain_id,
            replica=self._id,
            window=parameters.window,
            max_requests=limits.MAX_POOL_REQUESTS,
            max_bytes=limits.MAX_POOL_BYTES,
            max_operation_bytes=limits.MAX_OPERATION_BYTES,
            max_sessions=parameters.max_sessions,
            max_sessions_per_key=parameters.max_sessions_per_key,
            max_unverified_per_source=limits.MAX_UNVERIFIED_PER_SOURCE,
            lease=parameters.session_lease,
            skew=parameters.clock_skew,
            admit_unverified=self._sequential,
            **pool_arguments(parameters, self._genesis.view, self._id),
        )

    def _verify_threads(self) -> int:
        """The configured number, or the share of this replica in the cores of its host."""
        if self._config.verify_threads:
            return self._config.verify_threads
        host = self._genesis.member(self._id).replica_address.host
        neighbours = sum(1 for member in self._genesis.members if member.replica_address.host == host)
        return max(1, len(os.sched_getaffinity(0)) // neighbours if hasattr(os, "sched_getaffinity") else 1)

    def _watch(self) -> None:
        """Have the loop call us when native threads have something."""
        driver = self._driving()
        if self._log is not None:
            self._read_event(self._log.fileno(), driver.log_ready)
        if self._verifier is not None:
            self._read_event(self._verifier.fileno(), driver.verdicts_ready)

    def _read_event(self, descriptor: int, callback: Callable[[], None]) -> None:
        self._loop.add_reader(descriptor, callback)
        self._readers.append(descriptor)

    # --- stop ---

    def halt(self) -> None:
        """Say nothing more: whatever is not on its way by now must not leave."""
        self._desk.close()
        self._failing.cancel()
        if self._pump is not None:
            self._pump.close()
        if self._driver is not None:
            self._driver.stop()
        for descriptor in self._readers:
            self._loop.remove_reader(descriptor)
        self._readers.clear()

    async def close(self) -> None:
        """Take everything down, whatever goes wrong meanwhile.

        Raises:
            DurabilityLost: what was queued could not be written.
            ApplicationFailed: the application did, and the replica was about to stop for it.
        """
        self.halt()
        async with contextlib.AsyncExitStack() as last_first:
            last_first.callback(self._failing.check)
            if self._checks is not None:
                last_first.push_async_callback(asyncio.to_thread, self._checks.close)
            if self._log is not None:
                last_first.push_async_callback(asyncio.to_thread, self._log.close)
            if self._verifier is not None:
                last_first.push_async_callback(asyncio.to_thread, self._verifier.close)
            for part in (self._executor, self._keeper, self._server):
                if part is not None:
                    last_first.push_async_callback(part.close)
            last_first.callback(self._peers.close)
            last_first.push_async_callback(self._keys.close)
            last_first.push_async_callback(self._network.close)

    # --- what the parts tell each other ---

    def _driving(self) -> Driver:
        if self._driver is None:
            raise LocalProtocolError("the replica is not started")
        return self._driver

    def _executed(self, instance: int, results: bytes) -> None:
        self._driving().executed(instance, results)
        if not self.recovered.is_set():
            self._note_recovered()

    def _note_recovered(self) -> None:
        if self._core.executed >= self._replay_until:
            self.recovered.set()

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, ApplicationFailed):
            if self._executor is not None:
                self._executor.halt()
            self._failing.begin(error)
        else:
            self._fail(error)

    def _forget(self, source: int) -> None:
        if self._pump is not None:
            self._pump.forget(source)

    def _regulate(self) -> None:
        """A disk that fills up refuses new requests; a slow one stops the reading of clients. A loss is for good."""
        if not self._core.learns:
            self._learns = False
        elif not self._learns:
            self._learns = True
            self._lives.lose()
            logger.warning("replica %d learns and serves, but does not vote: %s", self._id, self._core.learns)
        log = self._log
        if log is None:
            return
        low = log.space_low()
        if low != self._refusing:
            self._refusing = low
            self._pool.set_accepting(not low)
            state, requests = ("nearly full", "refused") if low else ("fine", "taken")
            logger.warning("the disk of %s is %s: new requests are %s", self._config.data_folder, state, requests)
        waiting = log.pending_bytes()
        if waiting > limits.MAX_LOG_QUEUE_BYTES:
            self._clients.pause()
        elif waiting <= limits.MAX_LOG_QUEUE_BYTES // 2:
            self._clients.resume()

    # --- status ---

    def _answer(self, payload: bytes, reply: Callable[[bytes], None]) -> None:
        self._desk.ask(decode_question(payload), lambda facts: reply(self._encoded(facts)))

    def _encoded(self, facts: dict[str, Any]) -> bytes:
        """The answer's bytes, made once for all who asked together."""
        if facts is not self._answered[0]:
            self._answered = (facts, encode_answer(facts))
        return self._answered[1]

    async def status(self, digest: bool) -> dict[str, Any]:
        """What `smartbft.runtime.node.Replica.status` returns."""
        if not digest:
            return self._facts()
        answer: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._desk.ask(Question(digest=True), lambda facts: None if answer.done() else answer.set_result(facts))
        return await answer

    def _about_the_state(self, done: Callable[[dict[str, Any]], None]) -> None:
        executor = self._executor
        if executor is None:
            raise LocalProtocolError("the replica is not started")
        if self._core.transfer.paused:
            # The application's state is one on trial, and none of ours.
            done(NOTHING)
            return
        ask_for_digest(executor, done)

    def _look_up(self, questions: Sequence[Question], done: Callable[[list[dict[str, Any]], float], None]) -> None:
        if self._executor is None:
            raise LocalProtocolError("the replica is not started")
        Lookups(self._core, self._pool).answer(self._executor, questions, done)

    def _waiting_for(self) -> str:
        """What the core waits for, and what keeps it from coming."""
        view, connected = self._genesis.view, self._peers.connected()
        missing = [id for id in view.ids if id != self._id and id not in connected]
        silent = self._peers.silent(_SILENT_INTERVALS * self._genesis.parameters.progress_interval / 1_000_000)
        waiting = with_absent(self._core.waiting_for(), view.n - view.quorum, missing, silent)
        if self._refusing:
            waiting = f"{waiting}; room on the disk" if waiting else "room on the disk: new requests are refused"
        return "; ".join(filter(None, (waiting, self._core.checkpoints.waiting_for())))

    def _facts(self) -> dict[str, Any]:
        config, core = self._config, self._core.status()
        return {
            "replica": self._id,
            "chain": self._genesis.chain_id.hex(),
            **core,
            "waiting_for": self._waiting_for(),
            "persistence": config.persistence,
            "transport": config.transport,
            "signature_check": config.signature_check,
            "peers": self._peers.connected(),
            "clients": len(self._clients),
            "pool": self._pool.stats(),
            "log": asdict(self._log.statistics()) if self._log is not None else {},
            "evidence": len(self._evidence),
            "threads": thread_times(),
        }


def _no_log_to_serve_from(effect: ServeDecisions) -> None:
    """In memory mode the core answers from its own memory and never asks for this."""
    raise LocalProtocolError(f"there is no log to serve decisions {effect.first} to {effect.last} from")


def _check_authentication(config: ReplicaConfig, genesis: Genesis, application: BatchStateMachine) -> None:
    """Whoever must show others who asked for something needs signed requests."""
    if genesis.parameters.request_authentication != CHANNEL:
        return
    if application.needs_signatures:
        raise ConfigError(
            f"the application {genesis.application} needs signed requests, which prove to anybody who asked for what",
            field="parameters.request_authentication",
        )
    if config.signature_check == "sequential":
        raise ConfigError(
            "there are no signatures to check where requests are authenticated by their channels",
            file=str(config.config_path),
            field="signature_check",
        )


def _no_log_to_forget(before: int) -> int:
    """In memory mode the recent decisions forget themselves."""
    return 0


def _check_segment_size(config: ReplicaConfig, genesis: Genesis) -> None:
    """A record lies in one segment: the largest batch that the genesis allows must fit."""
    needed = SEGMENT_HEADER_SIZE + HEADER_SIZE + largest_body_bytes(genesis.parameters, len(genesis.members))
    if config.segment_bytes < needed:
        raise ConfigError(
            f"{format_size(config.segment_bytes)} cannot hold a record with the largest batch of the genesis: "
            f"choose at least {-(-needed // 1024)}KiB, or smaller batches",
            file=str(config.config_path),
            field="segment_size",
        )
