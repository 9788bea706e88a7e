"""VP-Consensus: validated and provable consensus (Mod-SMaRt section IV; the steps of protocols.md section 1).

One object is one execution: instance `i`, which decides one value. Leader-driven Byzantine Paxos: PROPOSE, WRITE,
signed ACCEPT. It owns no timers and elects nobody: a new regency comes from outside (`enter`), and its value with the
collects that allow it (`resume`).
"""

from __future__ import annotations

from smartbft._fastpath.pool import VALID, request_digests
from smartbft.core.chassis import Chassis
from smartbft.core.effects import Broadcast, Record
from smartbft.core.inputs import Timer
from smartbft.core.naming import name_some
from smartbft.core.records import PROPOSED, WRITTEN, accept_record, value_record
from smartbft.core.recovery import RecoveredVotes
from smartbft.errors import RemoteProtocolError
from smartbft.limits import DIGEST_BYTES
from smartbft.messages import (
    Accept,
    Accepted,
    FetchRequests,
    FetchValue,
    Message,
    Proof,
    Propose,
    RequestBodies,
    Write,
    Written,
)
from smartbft.protocols.old_votes import Votes, forget_old_votes
from smartbft.protocols.written import WrittenValues
from smartbft.types import Value


class VPConsensus:
    """One consensus instance at one replica.

    Attributes:
        instance: its number.
        regency: the regency it is in.
        proposal: the encoded value proposed in this regency, once seen.
        proposed_at: when the leader's PROPOSE was taken up here (microseconds); 0: it was not.
        digest: `H(v)` of the proposal.
        data: the proposal's requests, once all are here and verified; None before.
        accepted: `(ts, val)` of the paper: regency and digest of the newest WRITE quorum seen, or None.
        written: the write set, with the values.
    """

    def __init__(self, chassis: Chassis, instance: int, regency: int) -> None:
        self.instance = instance
        self.regency = regency
        self.proposal: bytes | None = None
        self.proposed_at = 0
        self.digest = b""
        self.data: bytes | None = None
        self.accepted: tuple[int, bytes] | None = None
        self.written = WrittenValues()
        self.decided = False
        self.refused = ""
        self._chassis = chassis
        self._writes: dict[tuple[int, bytes], dict[int, None]] = {}
        self._accepts: dict[tuple[int, bytes], dict[int, bytes]] = {}
        self._voters: dict[tuple[type, int, int], bytes] = {}  # (kind, regency, sender) -> digest
        self._sent: list[tuple[int, Message]] = []  # (token, message): what may be sent again
        self._logged: dict[bytes, None] = {}
        self._binds = False
        self._turned = False  # the proposal is one that a quorum accepted, perhaps in a later regency than ours
        self._missing = b""
        self._fetches = 0

    # The interface of the paper: VP-Propose, and VP-Decide through the chassis.

    def propose(self, value: Value, data: bytes) -> None:
        """VP-Propose at the leader: send PROPOSE and the leader's own WRITE, once both are on disk."""
        encoded = value.encode()
        digest = self._chassis.domains.value_digest(encoded)
        leader = self._chassis.view.leader(self.regency) == self._chassis.id
        if not self._chassis.guard.approve_propose(self.instance, self.regency, digest, leader):
            return
        self.proposal, self.digest, self.data = encoded, digest, data
        self._write(PROPOSED | WRITTEN)

    def enter(self, regency: int) -> None:
        """VP-Timeout: a new regency. What was proposed in the old one is over; what was promised stays."""
        self.regency = regency
        self.proposal, self.digest, self.data = None, b"", None
        self.proposed_at = 0
        self.refused = ""
        self._binds = self._turned = False
        self._missing, self._fetches = b"", 0
        for member in self._chassis.view.ids:
            self._forget_old_votes(member, Write, Accept)
        # What was said in regencies that are over has no use but for the newest ACCEPT: it tells what may bind.
        self._sent = [entry for entry in self._sent if self._is_newest_accept(entry[1])]

    def _is_newest_accept(self, message: Message) -> bool:
        return isinstance(message, Accept) and (message.regency, message.digest) == self.accepted

    def resume(self, value: bytes, *, binds: bool, data: bytes | None = None) -> None:
        """The value that the SYNC of this regency carries: the only one that may be written.

        Args:
            binds: it was certified in an earlier regency, so it is not held against clocks or the predicate again.
            data: its requests, where they are known.
        """
        self.proposal = value
        self.digest = self._chassis.domains.value_digest(value)
        self.data = data if data is not None else self.written.find(self.digest)[1]
        self._binds = binds
        self.consider()
        self._go_on()

    def collect(self) -> tuple[Accepted | None, tuple[Written, ...]]:
        """What COLLECT says about this instance: `(ts, val)`, and the write set, sorted by digest and bounded."""
        accepted = Accepted(*self.accepted) if self.accepted else None
        return accepted, self.written.collect(self._accepted_by_members())

    def _accepted_by_members(self) -> dict[bytes, int]:
        """What each member accepted last, as far as it was seen: what our write set may have to certify."""
        newest: dict[int, tuple[int, bytes]] = {}
        for (regency, digest), accepts in self._accepts.items():
            for signer in accepts:
                newest[signer] = max(newest.get(signer, (-1, b"")), (regency, digest))
        return {digest: signer for signer, (_, digest) in newest.items()}

    def go_on(self) -> None:
        """What was held back until now, votes or the decision, may be due: go on with what is here."""
        self.consider()
        self._go_on()

    def learn(self, value: bytes, digest: bytes) -> None:
        """A value that binds here, without its requests."""
        self.written.learn(digest, value)

    def value_of(self, digest: bytes) -> bytes:
        """The encoded value with this digest, if it was proposed or written here; else b""."""
        return (self.proposal or b"") if digest == self.digest else self.written.find(digest)[0]

    def on_propose(self, sender: int, message: Propose) -> None:
        """Step 2: a proposal from the leader of this regency; only the first counts."""
        if message.regency != self.regency or self.decided:
            return
        if self.proposal is not None:
            if self.proposal != message.value and not self._turned:
                self._chassis.penalise(sender, f"two proposals for instance {self.instance}")
            return
        self.proposal = message.value
        self.proposed_at = self._chassis.now
        self.digest = self._chassis.domains.value_digest(message.value)
        self.consider()

    def on_write(self, sender: int, message: Write) -> bool:
        """Step 3: count a WRITE. Returns False if the sender's WRITE of this regency was here before."""
        if not self._first_vote(Write, sender, message.regency, message.digest):
            return False
        self._writes.setdefault((message.regency, message.digest), {})[sender] = None
        self._try_accept(message.regency, message.digest)
        if message.regency < self.regency:
            self._forget_old_votes(sender, Write)
        return True

    def on_accept(self, sender: int, message: Accept) -> bool:
        """Step 4: count a verified ACCEPT. Returns False if the sender's ACCEPT of this regency was here before."""
        if not self._first_vote(Accept, sender, message.regency, message.digest):
            return False
        self._accepts.setdefault((message.regency, message.digest), {})[sender] = message.signature
        self._try_decide(message.regency, message.digest)
        if message.regency < self.regency:
            self._forget_old_votes(sender, Accept)
        return True

    def consider(self) -> None:
        """Look at the proposal: find its requests, check the predicate, vote. Called again when something has
        changed.
        """
        if self.proposal is None or self.decided or self.refused:
            return
        value = Value.decode(self.proposal)
        if self.data is None and not self._resolve(value):
            return
        if self._decide_if_accepted() or self.digest in self._written_now():
            return
        if self._binds or (self._on_time(value) and self._valid(value)):
            self._write(WRITTEN)

    def waits_for_leader(self) -> bool:
        """Whether the leader has not done its part: no proposal is here, or bodies that were asked for are not, or it
        is of a time that has not come yet. Verification of what is here does not count.
        """
        self.consider()
        if self.proposal is None:
            return True
        if self.decided or self.refused or self.digest in self._written_now():
            return False
        return bool(self.data) or (bool(self._missing) and self._fetches > 1)

    # Finding the requests that a proposal names (architecture.md section 1).

    def _resolve(self, value: Value) -> bool:
        if not value.count:  # key statements alone
            self.data = b""
            return True
        data, self._missing, _ = self._chassis.pool.resolve(value.digests, self._binds or self._has_quorum())
        self.data = data or None
        if self._missing and not self._fetches:
            self._fetches = 1
            # The client's own copy is usually on its way: a short grace before asking.
            self._chassis.set_timer(Timer.FETCH, self._chassis.parameters.fetch_grace)
        return self.data is not None

    def fetch(self) -> None:
        """The grace is over: ask for what is still missing, the proposer first, then the others in turn."""
        self.consider()
        if self.data is not None or not self._missing or self.decided or self.proposal is None:
            return
        peers = [id for id in self._chassis.view.ids if id != self._chassis.id]
        leader = self._chassis.view.leader(self.regency)
        to = leader if self._fetches == 1 and leader in peers else peers[self._fetches % len(peers)]
        self._fetches += 1
        view = self._chassis.view.number
        self._chassis.send(to, FetchRequests(view, self.regency, self.instance, self._missing))
        self._chassis.set_timer(Timer.FETCH, self._chassis.parameters.resend_interval)

    def on_bodies(self, sender: int, message: RequestBodies) -> None:
        """Requests that a peer sent for the proposal: only those that the proposal names enter the pool.

        Some may have come from their clients since they were asked for, so the answer is not held against what is
        missing now. Answers to what an earlier regency, or an earlier life, asked for are dropped: nobody is to blame.
        """
        if not self._missing or self.data is not None or self.proposal is None:
            return
        named = Value.decode(self.proposal).digests
        wanted = set(_split_digests(named))
        try:
            digests = request_digests(self._chassis.domains.chain_id, message.data)
            if any(digest not in wanted for digest in _split_digests(digests)):
                return
            self._chassis.pool.admit_body(message.data, self._chassis.now)
        except RemoteProtocolError as error:
            self._chassis.penalise(sender, f"sent bodies that are not wanted: {error}")
            return
        self.consider()

    def bodies(self, digests: bytes) -> bytes:
        """Request list of those among `digests` that values proposed here name, for a peer that lacks them.

        What was written is kept with its requests: after a restart the pool does not have them.
        """
        asked = set(_split_digests(digests))
        found: dict[bytes, bytes] = {}
        for value, data in [*self.written.all(), (self.proposal or b"", self.data)]:
            if data:
                requests = zip(_split_digests(Value.decode(value).digests), _split_data(data), strict=True)
                found.update((digest, request) for digest, request in requests if digest in asked)
        if self.proposal is not None and not self.data:
            named = _split_digests(Value.decode(self.proposal).digests)
            wanted = b"".join(digest for digest in named if digest in asked and digest not in found)
            found[b""] = self._chassis.pool.collect(wanted) if wanted else b""
        return b"".join(found.values())

    # The predicate gamma (protocols.md 2.2) and the votes.

    def _on_time(self, value: Value) -> bool:
        """Agreed time: later than the last, and not ahead of our clock by more than the skew (protocols.md 2.1)."""
        chassis = self._chassis
        if value.timestamp <= chassis.agreed_time:
            self._refuse("its timestamp is not after the last agreed time")
            return False
        ahead = value.timestamp - (chassis.now + chassis.parameters.clock_skew)
        if ahead <= 0 or value.timestamp == chassis.agreed_time + 1:
            return True
        chassis.set_timer(Timer.HOLD, ahead)
        return False

    def _valid(self, value: Value) -> bool:
        parameters = self._chassis.parameters
        if value.statements and self._chassis.keys.admitted(value.statements) != value.statements:
            self._refuse("it replaces a consensus key that is not in force")
            return False
        if not value.count:
            return True
        verdict = self._chassis.pool.check(
            self.data or b"", value.timestamp, parameters.max_batch_requests, parameters.max_batch_bytes
        )
        if verdict != VALID:
            self._refuse(f"its batch breaks the predicate (verdict {verdict})")
        return verdict == VALID

    def _refuse(self, why: str) -> None:
        self.refused = why
        leader = self._chassis.view.leader(self.regency)
        self._chassis.penalise(leader, f"the proposal of instance {self.instance} was refused: {why}")

    def _write(self, flags: int) -> None:
        """Steps 1 and 2: value, requests and vote are on disk before PROPOSE and WRITE leave."""
        chassis, value = self._chassis, self.proposal
        if value is None or not chassis.guard.approve_write(self.instance, self.regency, self.digest):
            return
        self.written.note(self.digest, self.regency)
        self.written.keep(self.digest, value, self.data)
        self.written.make_room({**self._accepted_by_members(), self.digest: chassis.id})
        view = chassis.view.number
        vote = Write(view, self.regency, self.instance, self.digest)
        messages: list[Message] = [vote]
        if flags & PROPOSED:
            messages.insert(0, Propose(view, self.regency, self.instance, value))
        record = value_record(self.instance, view, self.regency, flags, value, self.data or b"")
        self._speak(record, messages)
        if chassis.record_votes:
            self._logged[self.digest] = None
        self.on_write(chassis.id, vote)

    def _try_accept(self, regency: int, digest: bytes) -> None:
        """Step 3: on a WRITE quorum, `(ts, val) := (r, H(v))` on disk, then the signed ACCEPT."""
        chassis = self._chassis
        writes = len(self._writes[regency, digest])
        if regency != self.regency or self.decided or (Accept, regency, chassis.id) in self._voters:
            return
        if not chassis.guard.approve_accept(self.instance, regency, digest, writes, chassis.view.quorum):
            return
        self._has_accepted(regency, digest)
        vote = self._signed_accept(regency, digest)
        self._speak(accept_record(self.instance, chassis.view.number, regency, digest), [vote])
        self.on_accept(chassis.id, vote)

    def _has_accepted(self, regency: int, digest: bytes) -> None:
        self.accepted = (regency, digest)
        self.written.accepted(regency, digest)

    def _signed_accept(self, regency: int, digest: bytes) -> Accept:
        chassis = self._chassis
        payload = chassis.domains.accept_payload(chassis.view.number, regency, self.instance, digest)
        return Accept(chassis.view.number, regency, self.instance, digest, chassis.signer.sign(payload))

    def _speak(self, record: Record, messages: list[Message]) -> None:
        """Say something that binds us: only once its record is durable."""
        token = self._chassis.persist_promise(record, tuple(Broadcast(message) for message in messages))
        self._sent.extend((token, message) for message in messages)

    # Step 4: deciding.

    def _try_decide(self, regency: int, digest: bytes) -> None:
        chassis = self._chassis
        accepts = self._accepts[regency, digest]
        if self.decided or not chassis.guard.approve_decide(self.instance, len(accepts), chassis.view.quorum):
            return
        value, data = self.written.find(digest)
        if digest == self.digest and self.data is None:
            self.consider()
        elif digest == self.digest or data is not None:
            self._decide(regency, digest, accepts)
        elif value:
            self._turn_to(value, digest)
        else:
            # Decided elsewhere, and the value is not here: those who accepted it may have decided, or know the value.
            chassis.fetch_decision(self.instance, tuple(sorted(accepts)))

    def prove(self, proof: Proof) -> None:
        """A valid proof that somebody showed us decides, whatever its signers said otherwise.

        That a vote counts once is a rule for votes that arrive one by one. Held against a proof it would let a liar
        that sent us another ACCEPT show a decision to some which nobody else can finish.
        """
        if proof.instance != self.instance or self.decided:
            return
        for signer, _ in proof.signatures:
            self._first_vote(Accept, signer, proof.regency, proof.digest)  # two different ones cost a penalty
        accepts = self._accepts.setdefault((proof.regency, proof.digest), {})
        accepts.update(proof.signatures)
        self._try_decide(proof.regency, proof.digest)

    def ask_for_value(self) -> None:
        """Ask all for a value that is decided by what we have, but not here; repeated with everything else."""
        chassis = self._chassis
        for (_, digest), accepts in self._accepts.items():
            if len(accepts) >= chassis.view.quorum and digest != self.digest and digest not in self.written:
                chassis.broadcast(FetchValue(chassis.view.number, self.regency, self.instance, digest))

    def ask_for_proposal(self) -> None:
        """Some write what the leader has not shown us: if one of them is correct, it did propose it, so ask them."""
        chassis = self._chassis
        for (regency, digest), writers in self._writes.items():
            if self.proposal is None and regency == self.regency and len(writers) > chassis.view.f:
                for writer in writers:
                    chassis.send(writer, FetchValue(chassis.view.number, regency, self.instance, digest))

    def _is_proposed(self, digest: bytes) -> bool:
        """Whether a correct replica has written it in this regency, and no proposal is here."""
        writers = self._writes.get((self.regency, digest), {})
        return self.proposal is None and self._chassis.guard.synchronized and len(writers) > self._chassis.view.f

    def on_value(self, value: bytes) -> bool:
        """A value that somebody sent: taken if a quorum accepted it, or `f + 1` write it."""
        digest = self._chassis.domains.value_digest(value)
        if self._is_proposed(digest):
            self.proposal, self.digest = value, digest
            self.consider()
            return True
        if any(len(accepts) >= self._chassis.view.quorum for key, accepts in self._accepts.items() if key[1] == digest):
            self.written.learn(digest, value)
            self._turn_to(value, digest)
            return True
        return False

    def _turn_to(self, value: bytes, digest: bytes) -> None:
        """A value is decided, whatever else was proposed: find its requests."""
        self.proposal, self.digest, self.data = value, digest, None
        self._turned = True
        self.refused = ""
        self._missing, self._fetches = b"", 0
        self.consider()

    def _has_quorum(self) -> bool:
        """Whether `Q` members accepted the proposal: then its requests were vouched for."""
        quorum = self._chassis.view.quorum
        return any(digest == self.digest and len(accepts) >= quorum for (_, digest), accepts in self._accepts.items())

    def _decide_if_accepted(self) -> bool:
        for (regency, digest), accepts in self._accepts.items():
            if digest == self.digest and len(accepts) >= self._chassis.view.quorum:
                self._decide(regency, digest, accepts)
                return self.decided
        return False

    def _decide(self, regency: int, digest: bytes, accepts: dict[int, bytes]) -> None:
        value, data = (self.proposal, self.data) if digest == self.digest else self.written.find(digest)
        if value is None or data is None or not self._chassis.may_decide():
            return
        self.decided = True
        proof = Proof(self._chassis.view.number, regency, self.instance, digest, tuple(sorted(accepts.items())))
        self._chassis.decide(self.instance, value, data, proof, digest in self._logged)

    # Restarts and repetition.

    def recover(self, votes: RecoveredVotes) -> None:
        """Take up what was promised before a restart; the messages may be sent again."""
        chassis, guard = self._chassis, self._chassis.guard
        for value in votes.values:
            digest = chassis.domains.value_digest(value.value)
            guard.restore(
                self.instance, value.regency, digest, proposed=value.proposed, written=value.written, accepted=False
            )
            self.written.keep(digest, value.value, value.data)
            self._logged[digest] = None
            if value.regency == self.regency:
                self.proposal, self.digest, self.data = value.value, digest, value.data
            if value.proposed:
                self._sent.append((0, Propose(value.view, value.regency, self.instance, value.value)))
            if value.written:
                self._recover_write(Write(value.view, value.regency, self.instance, digest))
            self.written.make_room((digest,))
        for accept in votes.accepts:
            guard.restore(self.instance, accept.regency, accept.digest, proposed=False, written=False, accepted=True)
            self._recover_accept(accept.regency, accept.digest)
        self._forget_old_votes(chassis.id, Write, Accept)
        self._go_on()

    def _go_on(self) -> None:
        """Votes may have come before their regency began here, or our own is a quorum (n = 1): take the next step."""
        for regency, digest in list(self._writes):
            self._try_accept(regency, digest)
        for regency, digest in list(self._accepts):
            self._try_decide(regency, digest)

    def _recover_write(self, vote: Write) -> None:
        self.written.note(vote.digest, vote.regency)
        self._sent.append((0, vote))
        self._voters[Write, vote.regency, self._chassis.id] = vote.digest
        self._writes.setdefault((vote.regency, vote.digest), {})[self._chassis.id] = None

    def _recover_accept(self, regency: int, digest: bytes) -> None:
        self._has_accepted(regency, digest)
        vote = self._signed_accept(regency, digest)
        self._sent.append((0, vote))
        self._voters[Accept, regency, self._chassis.id] = digest
        self._accepts.setdefault((regency, digest), {})[self._chassis.id] = vote.signature

    def sent_messages(self) -> list[Message]:
        """Our messages of this instance whose records are durable: what may be sent again."""
        return [message for token, message in self._sent if token <= self._chassis.durable]

    def begun(self) -> bool:
        """Whether anything of this instance has been seen or sent, and it is not decided."""
        return not self.decided and (self.proposal is not None or bool(self._voters))

    def logged(self, digest: bytes) -> bool:
        """Whether the log holds this value and its requests as a VALUE record."""
        return digest in self._logged

    def waiting_for(self) -> str:
        """What this instance is waiting for, and from whom, in words."""
        view = self._chassis.view
        if self.proposal is None:
            return f"the proposal of instance {self.instance} from its leader, replica {view.leader(self.regency)}"
        if self.refused:
            return f"a regency change: {self.refused}"
        if self.data is None:
            return f"{len(self._missing) // DIGEST_BYTES} requests of instance {self.instance}, or their verification"
        votes: dict[int, None] | dict[int, bytes] = self._writes.get((self.regency, self.digest), {})
        kind = "WRITE"
        if self.accepted is not None:
            votes, kind = self._accepts.get((self.regency, self.digest), {}), "ACCEPT"
        return f"{kind} of instance {self.instance} from {name_some(view.quorum - len(votes), view.ids, votes)}"

    def _forget_old_votes(self, member: int, *kinds: type) -> None:
        """Votes of regencies that are over must not pile up. A quorum of ACCEPTs that waits for its value stays."""
        for kind in kinds:
            votes: Votes = self._writes if kind is Write else self._accepts
            needed = self._chassis.view.quorum if kind is Accept else self._chassis.view.n + 1
            forget_old_votes(self._voters, votes, kind, member, self.regency, needed)

    def _written_now(self) -> tuple[bytes, ...]:
        return tuple(digest for digest, regency in self.written.regencies.items() if regency == self.regency)

    def _first_vote(self, kind: type, sender: int, regency: int, digest: bytes) -> bool:
        known = self._voters.get((kind, regency, sender))
        if known is None:
            self._voters[kind, regency, sender] = digest
            return True
        if known != digest:
            self._chassis.penalise(sender, f"two {kind.__name__} votes in instance {self.instance}, regency {regency}")
        return False


def _split_digests(digests: bytes) -> list[bytes]:
    return [digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES)]


def _split_data(data: bytes) -> list[bytes]:
    """The requests of a well-formed request list, each with its length before it."""
    requests = []
    at = 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        requests.append(data[at:end])
        at = end
    return requests
