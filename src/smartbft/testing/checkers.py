"""What must hold in every run: one small checker per property, fed with what can be seen from outside a replica.

The checkers share no code with the rules they check: quorums are computed here again, proofs are verified with a
verifier of their own, and nothing is asked of a replica's state. A checker raises `PropertyViolation` at the event that
shows the violation.
The numbers in the docstrings are those of the invariants in docs/simulator.md.
"""

from __future__ import annotations

from smartbft._fastpath.pool import EXECUTED, OVERLOADED, request_digests, split_requests
from smartbft.core.effects import Record, ReportEvidence
from smartbft.core.records import DECISION, REGENCY, SYNC, VALUE, parse_decision, parse_sync, parse_value
from smartbft.crypto.domains import Domains
from smartbft.crypto.signatures import KeyVerifier
from smartbft.limits import DIGEST_BYTES
from smartbft.messages import Message, Proof, decode_proof
from smartbft.testing.accusations import Accusations
from smartbft.testing.answers import AnswersChecker
from smartbft.testing.clients import Reply
from smartbft.testing.promises import Durability, PropertyViolation, Votes, dissemination_quorum
from smartbft.testing.regency_starts import RegencyStarts
from smartbft.testing.vouching import VouchingChecker
from smartbft.types import KeyStatement, Value, View


class Agreement:
    """1 and integrity: one value per instance over all replicas; a replica decides each instance once and in order."""

    __slots__ = ("_decided", "values")

    def __init__(self) -> None:
        self.values: dict[int, bytes] = {}  # instance -> value digest
        self._decided: dict[int, int] = {}  # replica -> last decided instance

    def restarted(self, replica: int, decided: int) -> None:
        """The replica took up its log, which ends with the decision of instance `decided`."""
        self._decided[replica] = decided

    def decided(self, replica: int, instance: int, digest: bytes) -> None:
        """The replica decided a value digest."""
        expected = self._decided.get(replica, 0) + 1
        if instance != expected:
            raise PropertyViolation(
                "integrity",
                f"replica {replica} decided instance {instance}, but {expected} is next",
                replicas=(replica,),
                instance=instance,
            )
        self._decided[replica] = instance
        self.recovered(replica, instance, digest)

    def recovered(self, replica: int, instance: int, digest: bytes) -> None:
        """The replica's log holds this decision."""
        known = self.values.setdefault(instance, digest)
        if known != digest:
            raise PropertyViolation(
                "agreement",
                f"replica {replica} decided {digest.hex()[:16]} in instance {instance}, others {known.hex()[:16]}",
                replicas=(replica,),
                instance=instance,
            )


class Provability:
    """2: a decision carries signatures of `Q` distinct members for exactly its view, regency, instance and value."""

    __slots__ = (
        "_domains",
        "_keys",
        "_known",
        "_members",
        "_quorum",
        "_statements",
        "_verifier",
        "_view",
        "keys_replaced",
    )

    def __init__(self, view: View, domains: Domains, verifier: KeyVerifier) -> None:
        self.keys_replaced = 0  # so far
        self._view = view.number
        self._members = frozenset(view.ids)
        self._quorum = dissemination_quorum(len(view.ids))
        self._domains = domains
        self._verifier = verifier
        self._known: dict[tuple[int, bytes], bytes] = {}  # (signer, signature) -> payload it verifies for
        self._keys = {member.id: [(0, member.consensus_key)] for member in view.members}  # with their first instances
        self._statements: dict[bytes, tuple[KeyStatement, ...]] = {}  # of proposed values, by digest

    def saw(self, value: Value) -> None:
        """A value was proposed; only those with key statements matter here."""
        if value.statements:
            self._statements[self._domains.value_digest(value.encode())] = value.statements

    def statements(self, digest: bytes) -> tuple[KeyStatement, ...]:
        """The key statements of the value with this digest."""
        return self._statements.get(digest, ())

    def decided(self, instance: int, digest: bytes) -> list[int]:
        """What was decided here for the first time: keys give way to others from the next instance on.

        Returns the members that have a new one.
        """
        renewed = []
        for statement in self.statements(digest):
            keys = self._keys[statement.member]
            if keys[-1][1] == statement.replaces and keys[-1][0] <= instance:
                keys.append((instance + 1, statement.key))
                renewed.append(statement.member)
        self.keys_replaced += len(renewed)
        return renewed

    def key(self, member: int, instance: int) -> bytes:
        """The consensus key of a member in an instance."""
        return self._in_force(member, instance)[1]

    def since(self, member: int, instance: int) -> int:
        """The first instance in which the member votes with the key that it has in this one; 0: it is the first key."""
        return self._in_force(member, instance)[0]

    def _in_force(self, member: int, instance: int) -> tuple[int, bytes]:
        return [entry for entry in self._keys[member] if entry[0] <= instance][-1]

    def check(self, instance: int, digest: bytes, proof: Proof) -> None:
        """Check the proof of a decision."""
        where = f"the proof of instance {instance}"
        if (proof.view, proof.instance, proof.digest) != (self._view, instance, digest):
            raise PropertyViolation("provability", f"{where} is for another view, instance or value", instance=instance)
        signers = [signer for signer, _ in proof.signatures]
        distinct = [signer for signer in sorted(set(signers)) if signer in self._members]
        if len(distinct) != len(signers) or len(distinct) < self._quorum:
            raise PropertyViolation(
                "provability", f"{where} has signers {signers}; {self._quorum} members are needed", instance=instance
            )
        payload = self._domains.accept_payload(proof.view, proof.regency, instance, digest)
        for signer, signature in proof.signatures:
            if self._known.get((signer, signature)) == payload:
                continue
            if not self._verifier.verify(self.key(signer, instance), signature, payload):
                raise PropertyViolation(
                    "provability",
                    f"{where}: the signature of replica {signer} does not verify",
                    replicas=(signer,),
                    instance=instance,
                )
            self._known[signer, signature] = payload


class TotalOrder:
    """3: every replica applies the same batches with the same results in the order of instances, across restarts."""

    __slots__ = ("_applied", "_batches", "_overtaken", "_results", "started")

    def __init__(self) -> None:
        self._batches: dict[int, tuple[int, bytes, bytes]] = {}
        self._results: dict[int, bytes] = {}
        self._applied: dict[int, int] = {}  # replica -> last applied instance
        self._overtaken: dict[int, int] = {}  # replica -> instance of the snapshot installed last
        self.started: dict[int, int] = {}  # replica -> last instance handed to the application

    def restarted(self, replica: int, instance: int) -> None:
        """The replica's application begins again from a snapshot after `instance`; 0: from nothing."""
        self.started[replica] = instance
        self._applied[replica] = instance
        self._overtaken[replica] = 0

    def installed(self, replica: int, instance: int) -> None:
        """A snapshot takes the place of the instances up to this one."""
        self.restarted(replica, instance)
        self._overtaken[replica] = instance

    def handed_over(self, replica: int, instance: int, timestamp: int, seed: bytes, data: bytes) -> bool:
        """A decided batch goes to the application; True if no replica has shown this instance before."""
        expected = self.started.get(replica, 0) + 1
        if instance != expected:
            raise PropertyViolation(
                "total order",
                f"replica {replica} executes instance {instance}, but {expected} is next",
                replicas=(replica,),
                instance=instance,
            )
        self.started[replica] = instance
        known = self._batches.get(instance)
        if known is None:
            self._batches[instance] = (timestamp, seed, data)
            return True
        if known != (timestamp, seed, data):
            raise PropertyViolation(
                "total order",
                f"replica {replica} executes another batch in instance {instance}",
                replicas=(replica,),
                instance=instance,
            )
        return False

    def applied(self, replica: int, instance: int, results: bytes) -> None:
        """The application has executed a batch, perhaps one that a snapshot has overtaken meanwhile."""
        if instance <= self._overtaken.get(replica, 0):
            return
        expected = self._applied.get(replica, 0) + 1
        if instance != expected:
            raise PropertyViolation(
                "total order",
                f"replica {replica} applied instance {instance}, not {expected}",
                replicas=(replica,),
                instance=instance,
            )
        self._applied[replica] = instance
        if self._results.setdefault(instance, results) != results:
            raise PropertyViolation(
                "total order",
                f"replica {replica} has other results in instance {instance}",
                replicas=(replica,),
                instance=instance,
            )

    def batch(self, instance: int) -> tuple[int, bytes, bytes] | None:
        """Timestamp, seed and request list of an instance, once a replica has shown them."""
        return self._batches.get(instance)

    def results(self, instance: int) -> bytes:
        """The results of an instance that some replica has applied."""
        return self._results.get(instance, b"")


class Validity:
    """6 and external validity: only requests that clients sent, each once, numbers contiguous from 1 in a session."""

    __slots__ = ("_chain_id", "_instance", "_next", "_sent", "_time", "executed_in")

    def __init__(self, chain_id: bytes) -> None:
        self._chain_id = chain_id
        self._sent: dict[bytes, tuple[bytes, int, int]] = {}
        self._next: dict[tuple[bytes, int], int] = {}
        self._time = 0
        self._instance = 0
        self.executed_in: dict[bytes, int] = {}  # request digest -> instance

    def sent(self, digest: bytes, key: bytes, session: int, sequence: int) -> None:
        """A client sent a validly signed request."""
        self._sent[digest] = (key, session, sequence)

    def ordered(self, instance: int, timestamp: int, data: bytes, *, may_be_empty: bool = False) -> bytes:
        """The batch of the next instance, seen for the first time; returns the digests of its requests."""
        if instance != self._instance + 1:
            raise PropertyViolation(
                "external validity", f"instance {instance} follows instance {self._instance}", instance=instance
            )
        if timestamp <= self._time:
            raise PropertyViolation(
                "external validity", f"agreed time went from {self._time} to {timestamp}", instance=instance
            )
        self._instance, self._time = instance, timestamp
        digests = request_digests(self._chain_id, data)
        if not digests and not may_be_empty:
            raise PropertyViolation(
                "external validity", f"instance {instance} decided an empty batch", instance=instance
            )
        for position, (key, session, sequence, _, _) in enumerate(split_requests(data)):
            digest = digests[position * DIGEST_BYTES : (position + 1) * DIGEST_BYTES]
            if self._sent.get(digest) != (key, session, sequence):
                raise PropertyViolation(
                    "external validity", f"instance {instance} holds a request that no client sent", instance=instance
                )
            expected = self._next.get((key, session), 1)
            if sequence < expected:
                raise PropertyViolation(
                    "exactly once", f"request {sequence} is ordered again in instance {instance}", instance=instance
                )
            if sequence > expected:
                raise PropertyViolation(
                    "external validity",
                    f"request {sequence} is ordered in instance {instance} before {expected}",
                    instance=instance,
                )
            self._next[key, session] = sequence + 1
            self.executed_in[digest] = instance
        return digests


class Replies:
    """13: replies to one request are equal on all replicas, and requests of honest clients are never refused."""

    __slots__ = ("_honest", "_seen", "_validity")

    def __init__(self, validity: Validity) -> None:
        self._seen: dict[bytes, bytes] = {}
        self._honest: set[bytes] = set()  # membership tests only
        self._validity = validity

    def expect(self, digest: bytes) -> None:
        """An honest client sent this request."""
        self._honest.add(digest)

    def sent(self, replica: int, reply: Reply) -> None:
        """A replica lets a reply out."""
        if reply.replica != replica:
            raise PropertyViolation(
                "replies", f"replica {replica} replied in the name of replica {reply.replica}", replicas=(replica,)
            )
        if reply.status == OVERLOADED or (reply.status != EXECUTED and reply.digest not in self._honest):
            return
        if reply.status != EXECUTED:
            raise PropertyViolation(
                "replies", f"replica {replica} refused a valid request with status {reply.status}", replicas=(replica,)
            )
        known = self._seen.get(reply.digest)
        if known is None:
            self._seen[reply.digest] = reply.content
            ordered_in = self._validity.executed_in.get(reply.digest)
            if ordered_in != reply.instance:
                raise PropertyViolation(
                    "replies",
                    f"a reply names instance {reply.instance}, but the request is in instance {ordered_in}",
                    replicas=(replica,),
                    instance=reply.instance,
                )
        elif known != reply.content:
            raise PropertyViolation(
                "replies", f"replica {replica} replied differently from others", replicas=(replica,)
            )


class Checkers:
    """All checkers of one run."""

    __slots__ = (
        "_spoke",
        "accusations",
        "agreement",
        "answers",
        "channel",
        "domains",
        "durability",
        "order",
        "provability",
        "regency_starts",
        "replies",
        "validity",
        "votes",
        "vouching",
    )

    def __init__(
        self,
        view: View,
        domains: Domains,
        verifier: KeyVerifier,
        *,
        persistence: str,
        byzantine: frozenset[int] = frozenset(),
        channel: bool = False,
        resend_interval: int = 250_000,
    ) -> None:
        n = len(view.ids)
        holders = {"memory": 0, "async": (n - 1) // 3 + 1, "sync": dissemination_quorum(n)}[persistence]
        # A Byzantine replica may reply without having stored anything.
        holders = max(0, holders - len(byzantine))
        self.domains = domains
        self.channel = channel
        self.agreement = Agreement()
        self.provability = Provability(view, domains, verifier)
        self.order = TotalOrder()
        self.validity = Validity(domains.chain_id)
        self.votes = Votes(view)
        self.regency_starts = RegencyStarts(view, domains, verifier, self.provability.check, self.provability.key)
        self.durability = Durability(view, domains, check_votes=persistence != "memory", holders=holders)
        self.replies = Replies(self.validity)
        self.accusations = Accusations(view, domains, verifier, byzantine)
        self.vouching = VouchingChecker(n, domains)
        self.answers = AnswersChecker(resend_interval)
        self._spoke: dict[int, int] = {}  # replica -> instance of its last vote, or SYNC

    def recorded(self, replica: int, record: Record) -> None:
        """A replica wants a record persisted: decisions are judged here, with their proofs."""
        if record.kind == DECISION:
            proof = decode_proof(record.parts[1])
            if record.parts[2]:
                self.provability.saw(Value.decode(record.parts[2]))
            self.agreement.decided(replica, record.instance, proof.digest)
            self.provability.check(record.instance, proof.digest, proof)
            for member in self.provability.decided(record.instance, proof.digest):
                self.votes.forget_promises(member)  # those made with the old key are void
        else:
            if record.kind == VALUE:
                self.provability.saw(Value.decode(record.parts[1]))
            comes_back = self.provability.since(replica, record.instance) > self._spoke.get(replica, 0)
            if record.kind == REGENCY and comes_back:
                self.votes.forget_promises(replica)
            self.votes.recorded(replica, record)
            if record.kind == SYNC:
                sync = parse_sync(b"".join(record.parts))
                self.regency_starts.recorded(replica, sync, record.instance, comes_back=comes_back)
            if record.kind != REGENCY:
                self._spoke[replica] = record.instance

    def sent(self, replica: int, message: Message) -> None:
        """A replica lets a message out to its peers."""
        self.votes.sent(replica, message)
        self.regency_starts.sent(replica, message)
        self.durability.sent(replica, message)
        if self.channel and (wrong := self.vouching.sent(replica, message)):
            raise PropertyViolation("vouching", wrong, replicas=(replica,))

    def sent_to(self, replica: int, to: int, message: Message, now: int) -> None:
        """A replica lets a message, which it has `sent`, out to one of its peers; at this time in microseconds."""
        if wrong := self.answers.sent(replica, to, message, now):
            raise PropertyViolation("bounded answers", wrong, replicas=(replica,))

    def accused(self, replica: int, effect: ReportEvidence) -> None:
        """A replica reports evidence."""
        if problem := self.accusations.judge(effect):
            raise PropertyViolation("no false accusation", f"replica {replica}: {problem}", replicas=(replica,))

    def executes(self, replica: int, instance: int, timestamp: int, seed: bytes, data: bytes) -> None:
        """A replica hands a decided batch to its application."""
        if not self.order.handed_over(replica, instance, timestamp, seed, data):
            return
        statements = self.provability.statements(self.agreement.values.get(instance, b""))
        digests = self.validity.ordered(instance, timestamp, data, may_be_empty=bool(statements))
        digest = self.domains.value_digest(Value(timestamp, digests, statements).encode())
        self.agreement.recovered(replica, instance, digest)

    def replied(self, replica: int, reply: Reply) -> None:
        """A replica lets a reply to a client out."""
        self.replies.sent(replica, reply)
        if reply.status == EXECUTED:
            self.durability.replied(replica, reply.instance)

    def wiped(self, replica: int) -> None:
        """A replica has lost its disk."""
        self.votes.forget_promises(replica)
        self.durability.wiped(replica)

    def installed(self, replica: int, instance: int) -> None:
        """A replica takes over the state of a snapshot."""
        self.agreement.restarted(replica, instance)
        self.order.installed(replica, instance)
        self.durability.installed(replica, instance)

    def restarted(self, replica: int, records: list[tuple[int, int, bytes]], base: int) -> None:
        """A replica starts with these records of its log, and a snapshot after instance `base` (0: none)."""
        decisions = [(instance, parse_decision(body)) for kind, instance, body in records if kind == DECISION]
        for instance, decision in decisions:
            self.agreement.recovered(replica, instance, decision.proof.digest)
            self.provability.check(instance, decision.proof.digest, decision.proof)
        self.agreement.restarted(replica, max([base, *(instance for instance, _ in decisions)]))
        self.order.restarted(replica, base)
        self.votes.restarted(replica, records)
        values = [parse_value(body).value for kind, _, body in records if kind == VALUE]
        self.vouching.restarted(replica, values)
        self.durability.restarted(replica, records, base)
        self.answers.restarted(replica)


__all__ = [
    "Agreement",
    "Checkers",
    "Durability",
    "PropertyViolation",
    "Provability",
    "Replies",
    "TotalOrder",
    "Validity",
    "Votes",
    "dissemination_quorum",
]
