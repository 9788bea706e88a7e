"""Every bound of the system, with its reason. Nothing on the network, on disk or in memory grows past a number on
this page.

Values that a deployment may choose (batch size, timeouts, window) are in the genesis; here are the bounds they must
keep.
"""

from __future__ import annotations

# Sizes of the fixed layouts (docs/wire-format.md).
DIGEST_BYTES = 32
KEY_BYTES = 32
SIGNATURE_BYTES = 64
REQUEST_HEADER_BYTES = 52  # client key, session, sequence number, operation length
REQUEST_OVERHEAD_BYTES = REQUEST_HEADER_BYTES + SIGNATURE_BYTES
REPLY_HEADER_BYTES = 56
FRAME_HEADER_BYTES = 5  # length and kind

# Membership. Votes are counted in machine-word bit masks and proofs grow with n: far beyond any measured deployment.
MAX_MEMBERS = 64

# Operations. 64 KiB holds any command of the applications this is for; larger data belongs beside the log, by digest.
MAX_OPERATION_BYTES = 64 * 1024
MAX_REQUEST_BYTES = REQUEST_OVERHEAD_BYTES + MAX_OPERATION_BYTES
# Results are kept for every reply in a session's window: the bound keeps the table's memory predictable. What an
# application's `execute` returns may be as large as an operation; one byte before it says that it was accepted.
MAX_RESULT_BYTES = 64 * 1024
MAX_CODED_RESULT_BYTES = 1 + MAX_RESULT_BYTES
# Code and text of a refused check: a line. Of many refused at once only so many get theirs, the others nothing.
MAX_REASON_BYTES = 256
MAX_REASONS_PER_JOB = 32
MAX_REPLY_BYTES = REPLY_HEADER_BYTES + MAX_CODED_RESULT_BYTES

# Batches. One batch travels in one frame when a peer fetches it, and lies in one record of the log.
MAX_BATCH_REQUESTS = 8192
MAX_BATCH_BYTES = 4 * 1024 * 1024
VALUE_HEADER_BYTES = 8  # the timestamp, before the digests
# New consensus keys: one statement per member in a value. More than `n - Q` members cannot wait for one at a time, or
# nothing is decided; so this is no restriction, and a value needs no other.
MAX_KEY_STATEMENTS = MAX_MEMBERS
KEY_STATEMENT_BYTES = 2 + 2 * KEY_BYTES + 2 * SIGNATURE_BYTES
MAX_VALUE_BYTES = VALUE_HEADER_BYTES + DIGEST_BYTES * MAX_BATCH_REQUESTS + KEY_STATEMENT_BYTES * MAX_KEY_STATEMENTS + 1
# Keys remembered of each member, the one in force included. Each is a record of votes that was lost. What was signed
# with older ones cannot be checked any more: that holds up nobody but a peer that is as far behind, until it has the
# decisions, which are checked with the keys of their time.
MAX_KEYS_PER_MEMBER = 16
# A key rests for the request timeout before the next one may replace it, twice as long with each that a member had
# replaced, and 64 times as long at most: two minutes with the usual timeout. Whoever loses its votes as often as that
# waits for it; a liar cannot end a regency more often.
MAX_KEY_REST_DOUBLINGS = 6
# Resend intervals for which a replica that gets a new key looks for the SYNC of its regency first.
LOOKS_FOR_SYNC = 8
# Public keys kept ready for verification.
MAX_PARSED_KEYS = 4 * MAX_MEMBERS
MAX_PROOF_BYTES = 128 + MAX_MEMBERS * (SIGNATURE_BYTES + 8)

# The write set of an instance as a STOPDATA tells it: what members were seen to accept comes first, one value each at
# most, then the newest. So a value that somebody accepted is certified however long ago it was written.
MAX_WRITE_SET_ENTRIES = MAX_MEMBERS
# What a replica remembers of it: an entry for each regency since it last accepted, and regencies take longer and
# longer: 45 days with the usual timeouts.
MAX_WRITTEN_VALUES = 65_536
# The values themselves, and as much again of their requests: 256 of the largest values, some hours of failing leaders.
# The oldest requests go first, which pools have until they are ordered, then the oldest values, which logs have still;
# but nothing that somebody was seen to accept.
MAX_WRITTEN_VALUE_BYTES = 64 * 1024 * 1024
_WRITTEN_BYTES = DIGEST_BYTES + 2 + 9 + 1
# Votes of regencies that are over, which an instance keeps of each member, of either kind: ACCEPTs decide if a quorum
# comes together late. What they decide binds in later regencies and is accepted there again, so none needs to be older.
MAX_OLD_VOTES_PER_MEMBER = 4
MAX_STOP_DATA_BYTES = MAX_WRITE_SET_ENTRIES * _WRITTEN_BYTES + MAX_PROOF_BYTES + SIGNATURE_BYTES + 128
MAX_SYNC_BYTES = MAX_MEMBERS * MAX_STOP_DATA_BYTES + MAX_VALUE_BYTES + 256

# Frames: the largest payload of each kind. A peer's message may carry a batch, its value and its proof, or a SYNC.
MAX_HELLO_BYTES = 1024
_MAX_DECISION_BYTES = MAX_BATCH_BYTES + 4 * MAX_BATCH_REQUESTS + MAX_VALUE_BYTES + MAX_PROOF_BYTES + 1024

# Snapshots. A chunk is the unit of transfer: small enough to share a connection with votes (2 ms at 1 Gbit/s), large
# enough that its hash is a ten-thousandth of it. The list of hashes travels in one message: 16 GiB of state at most.
SNAPSHOT_CHUNK_BYTES = 256 * 1024
MAX_SNAPSHOT_CHUNKS = 65536
MAX_SNAPSHOT_BYTES = SNAPSHOT_CHUNK_BYTES * MAX_SNAPSHOT_CHUNKS
_MAX_MANIFEST_BYTES = DIGEST_BYTES * MAX_SNAPSHOT_CHUNKS + MAX_PROOF_BYTES + 256

MAX_MESSAGE_BYTES = max(_MAX_DECISION_BYTES, MAX_SYNC_BYTES, _MAX_MANIFEST_BYTES)
MAX_STATUS_QUESTION_BYTES = 256
MAX_STATUS_BYTES = 64 * 1024

# Sessions (protocols.md 2.1). A reply cache holds `window` replies, so window times table size bounds its memory.
MAX_WINDOW = 1024
DEFAULT_WINDOW = 64
MAX_SESSIONS = 65536
MAX_SESSIONS_PER_KEY = 16
SESSION_LEASE_MICROSECONDS = 3600 * 1_000_000
CLOCK_SKEW_MICROSECONDS = 60 * 1_000_000

# The request pool: a few seconds of the highest measured load; beyond it clients get Overloaded.
MAX_POOL_REQUESTS = 65536
MAX_POOL_BYTES = 64 * 1024 * 1024
# A request that is verified and could not be proposed (a gap is before it, too few replicas hold it) stays so many
# request timeouts: a client that lost a request on the way sends it again after a second or two. Whatever needs room
# takes it before that.
MAX_IDLE_REQUEST_TIMEOUTS = 8
# One connection's share of unverified requests, so that a flood of bad signatures costs only its sender.
MAX_UNVERIFIED_PER_SOURCE = 16384
# A connection that sent this many bad signatures is closed.
MAX_BAD_SIGNATURES_PER_SOURCE = 64
# A client connection that sends requests which were here before, or are refused, is read more slowly beyond this: room
# for a service that repeats all it has in flight, once a second.
WASTED_REQUESTS_AT_ONCE = 32768
WASTED_REQUESTS_PER_SECOND = 4096
# Requests verified in one job: large enough for the batch equation to pay, small enough (some 10 ms) that a
# proposal's requests never wait long behind it.
VERIFY_JOB_REQUESTS = 512
# Jobs at the verifier at once: enough that its threads never starve, few enough that priorities still bite.
VERIFY_JOBS_IN_FLIGHT = 2
# Fewer waiting requests than this may wait so long for company since the last job: a batch of this size is nearly as
# cheap per signature as a large one, and the pause is a fraction of what ordering takes.
VERIFY_ENOUGH_REQUESTS = 64
VERIFY_PAUSE_SECONDS = 0.002

# Requests without signatures: digests in one HOLD; digests kept of one member about requests that are not here (as many
# as a pool holds; what is pushed out is announced again); those repeated per resend interval; those asked for at once.
MAX_HOLD_DIGESTS = MAX_BATCH_REQUESTS
MAX_HOLDS_PER_MEMBER = 65536
MAX_HOLDS_REPEATED = 1024
MAX_FETCH_HELD_DIGESTS = 256

# Ordering.
LIVE_INSTANCES = 2  # Mod-SMaRt section V-A: the current instance and the one before
# Out-of-context messages kept per sender: votes of the next instances; whatever is lost can be asked for again.
MAX_EARLY_MESSAGES_PER_SENDER = 32
EARLY_INSTANCES_AHEAD = 8
# Decisions asked for at once by a replica that is behind, and kept until they fit: bounded memory, still pipelined.
FETCH_DECISIONS_AT_ONCE = 16
MAX_FETCH_DIGESTS = MAX_BATCH_REQUESTS
# Decided batches that wait for the application before the leader pauses: a slow application must not fill the memory.
MAX_EXECUTION_BACKLOG = 8
# A replica whose application is slower than those of the others, or that catches up faster than it executes, decides no
# more while batches of so many bytes wait; each counts for so many beside its requests. It fetches the rest later.
MAX_UNEXECUTED_BYTES = 64 * 1024 * 1024
UNEXECUTED_BATCH_BYTES = 4096
# Likewise one whose disk is slower, or stands still: of decided batches that its log does not have yet.
MAX_UNLOGGED_BYTES = 64 * 1024 * 1024
# Bytes of overdue requests in one FORWARD or STOP, and how often in a request timeout the oldest request is looked at.
MAX_FORWARD_BYTES = 1024 * 1024
REQUEST_LOOKS_PER_TIMEOUT = 8
# Without a log, late replicas can only be served from memory.
RECENT_DECISIONS_IN_MEMORY_MODE = 4096
RECENT_DECISIONS_BYTES = 64 * 1024 * 1024

# Answers to other replicas: what one peer gets of one kind at once, and after that; core/answer_rates.py has the table
# of all of them, with what honest peers ask for. Each counts for so many bytes at least: the work of making it.
ANSWER_COST_BYTES = 16 * 1024
# Small ones, and large ones that are needed once: asked for once per resend interval. Twice as many, because intervals
# of two replicas do not tally; at once enough for a few restarts and for a channel that comes and goes.
REPEATED_ANSWERS_AT_ONCE = 8
REPEATED_ANSWERS_PER_RESEND = 2
# Decisions and bodies: half of what a gigabit link carries, and more than the highest measured load (some 47 MB/s); at
# once several of the largest batches that a chain has by default.
BULK_ANSWER_BYTES_AT_ONCE = 8 * 1024 * 1024
BULK_ANSWER_BYTES_PER_SECOND = 64_000_000
# Requests that members vouch for: four full messages.
HELD_ANSWER_BYTES_AT_ONCE = 4 * MAX_FORWARD_BYTES
# Proposed values: four of the largest, and as many a second as there are instances with a leader that fails.
VALUE_ANSWER_BYTES_AT_ONCE = 4 * MAX_VALUE_BYTES
VALUE_ANSWER_BYTES_PER_SECOND = 16 * MAX_VALUE_BYTES

# Regency changes. Each failed one doubles the timeout, up to the genesis's cap; so many decisions in a row halve it.
DECISIONS_PER_TIMEOUT_DECAY = 16
# A STOP counts while its sender repeats it (every resend interval); after so many intervals of silence it is void, so
# that suspicions of long ago do not add up.
STOP_LIFETIME_RESENDS = 8

# Slow leaders. So many late proposals, and this part of a request timeout lost with them: more than a machine that
# stands still now and then, and few enough to be rid of a leader within a few timeouts. What all leaders are too slow
# for is allowed for so many request timeouts (two minutes), then twice as long each time, up to some hours.
LATE_PROPOSALS = 4
LATE_SHARE_OF_TIMEOUT = 2
PROPOSAL_PATIENCE_TIMEOUTS = 64
MAX_PROPOSAL_PATIENCE_DOUBLINGS = 6
# Bytes of requests that a leader is reminded of at once, when its batches have room and leave old requests out. It must
# order them all in about half of `proposal_timeout`, so this is also what such a leader is held to: some 8 MB/s.
MAX_REMINDER_BYTES = 256 * 1024

# Evidence. What a replica remembers of each member's signed statements, to compare new ones with: a regency change
# touches an instance or two, so this reaches back far enough; a flood pushes out only its sender's own.
WITNESSED_ACCEPTS_PER_MEMBER = 64
WITNESSED_STOP_DATA_PER_MEMBER = 4
WITNESSED_SYNCS = 2
WITNESSED_DECISIONS = 64
# One contradiction convicts; a few show a pattern. The rest would only fill the disk.
WITNESSED_OFFENCES_PER_MEMBER = 4
MAX_EVIDENCE_FILES_PER_MEMBER = 8
MAX_EVIDENCE_BYTES = 2 * MAX_SYNC_BYTES + KEY_STATEMENT_BYTES + 256

# Checkpoints. Two snapshots are kept: the newest may be unfinished in a crash, and the one before serves transfers that
# have begun. Of every member the newest few CHECKPOINTs are kept: more than a member can have made stable meanwhile.
DEFAULT_CHECKPOINT_INTERVAL = 1024
MAX_CHECKPOINT_INTERVAL = 1_000_000
SNAPSHOTS_KEPT = 2
# One that a peer is fetching is kept longer, with the log after it: that peer has so many checkpoint intervals to fetch
# it, and no liar makes the log longer than that.
MOST_SNAPSHOTS_KEPT = 8  # checkpoint intervals, and so snapshots
# A peer that has asked for nothing of a snapshot for so many resend intervals fetches it no more.
FETCHING_RESENDS = 16
CHECKPOINTS_PER_MEMBER = 4
# A replica waits with the next checkpoint until enough others have its last one; at every so many-th one, those that
# have waited for half as many wait no longer. So where replicas are out of step the log has that many intervals more.
CHECKPOINTS_PER_MEETING = 8

# State transfer. Chunks on their way from one peer: enough to hide the way there and back, little to lose.
TRANSFER_CHUNKS_IN_FLIGHT = 4
# Bytes of chunks that one peer is sent at once, and of their lists: those on their way, and as many for a transfer that
# begins again.
SNAPSHOT_ANSWER_BYTES_AT_ONCE = 2 * TRANSFER_CHUNKS_IN_FLIGHT * SNAPSHOT_CHUNK_BYTES
# A peer that sent nothing for so many resend intervals is passed over.
TRANSFER_PATIENCE_RESENDS = 8
# What one replica sends of its snapshots: a fifth of a gigabit link, so that whoever catches up costs the live cluster
# at most that fifth. Chunks that wait to be sent are asked for again, so the queue of each peer may be short.
TRANSFER_BYTES_PER_SECOND = 25_000_000
MAX_TRANSFER_QUEUE = 64

# Rehearsals (sequential checkpoints). Decisions after a snapshot on trial are fetched in blocks, from several peers at
# once; so many blocks are on their way or waiting for their turn: some 150 MB with the largest batches.
REHEARSAL_BLOCK = 8
REHEARSAL_BLOCKS = 4
# Decisions count for so many bytes while they are read from the log for a peer: all those blocks may be asked of one.
RESERVED_DECISION_BYTES = BULK_ANSWER_BYTES_AT_ONCE // (REHEARSAL_BLOCK * REHEARSAL_BLOCKS)
# A block that has not come whole after so many resend intervals is asked of another peer.
REHEARSAL_BLOCK_RESENDS = 2
# It comes from one seeder alone: whoever sends it more slowly than this is passed over for another, and allowed twice
# as long each time that it is its turn again.
REHEARSAL_BYTES_PER_SECOND = 1_000_000
REHEARSAL_PATIENCE_DOUBLINGS = 10
# The application may take so long for a step of a rehearsal (to restore, a batch, to capture), and as long more as the
# state's bytes may take to arrive: a state that a liar made may make it hang. Twice as long each time that the seeder
# is tried again: the machine may be slow.
REHEARSAL_STEP_SECONDS = 30
# A call that hangs gets so long to end once it is given up; one that waits outside Python does not hear of it.
GIVING_UP_SECONDS = 5.0
# One replica alone vouches for a snapshot until it has been rehearsed: larger than this, against the size that at least
# one correct member states for its own, it is not even fetched. States do not double between two checkpoints, but for
# small ones.
REHEARSAL_SIZE_FACTOR = 2
REHEARSAL_SIZE_SLACK_BYTES = 16 * 1024 * 1024

# Applications. One that is slow is warned about when a call takes this many times as long as the slowest one before:
# a slow application is named, and does not fill the log.
APPLICATION_WARNING_FACTOR = 4.0
# One that fails ends its replica after so many resend intervals: by then the others have its votes, decide as well, and
# meet the same operation. No longer than this, whatever the interval.
FAILURE_PAUSE_RESENDS = 2
MAX_FAILURE_PAUSE_SECONDS = 2.0
# A `check` that raises is logged at the first operation, and whenever so many times as many have made it raise.
CHECK_FAILURE_FACTOR = 16

# The log.
DEFAULT_SEGMENT_BYTES = 16 * 1024 * 1024
MIN_SEGMENT_BYTES = 64 * 1024
# Bytes queued for the disk before client sockets are paused: a slow disk shows as backpressure, not as memory.
MAX_LOG_QUEUE_BYTES = 64 * 1024 * 1024

# Connections.
MAX_CLIENT_CONNECTIONS = 4096
# Each takes a file descriptor, of which the system often gives a process 1024. So many are left to the log, to
# snapshots and to whatever else must open a file: a crowd of connections must not cost us the disk. As many again are
# open anyway.
RESERVED_DESCRIPTORS = 64
# When all of them are taken, one that has said nothing for so long makes room for a new one.
CLIENT_YIELDING_SILENCE_SECONDS = 10.0
# Connections that have not introduced themselves: beyond it the oldest of them goes, of the address that has most. An
# honest handshake takes a few milliseconds, so a flood must be that quick to keep its neighbours out; on the port for
# replicas there is room for all peers.
MAX_STRANGERS_FOR_CLIENTS = 1024
MAX_STRANGERS_FOR_REPLICAS = 2 * MAX_MEMBERS
# Handshakes that begin on one port: with TLS each costs half a millisecond, so a flood takes a tenth of a core (of
# clients) and a hundredth (of replicas, who need no more unless they fail to knock). At once: not to be felt by others,
# and enough for a crowd of clients that comes back. Without TLS a handshake costs a fifth, so that many more may begin.
CLIENT_HANDSHAKES_AT_ONCE = 256
CLIENT_HANDSHAKES_PER_SECOND = 200.0
REPLICA_HANDSHAKES_AT_ONCE = MAX_MEMBERS
REPLICA_HANDSHAKES_PER_SECOND = 25.0
PLAIN_HANDSHAKES_PER_TLS_HANDSHAKE = 5
# Connections accepted on one port: to accept one, hear it and close it takes some 50 microseconds. The others wait in
# the operating system's queue. At once more than wait here; in one turn of the loop few enough not to be felt.
ACCEPTED_AT_ONCE = 2 * MAX_STRANGERS_FOR_CLIENTS
ACCEPTED_PER_SECOND = 1000.0
ACCEPTED_PER_TURN = 32
# Knocks: to check one takes some 60 microseconds. A replica dials again after 50 milliseconds at the earliest, and soon
# more slowly; one that lies gets no more handshakes than that.
KNOCKS_AT_ONCE = 2 * MAX_MEMBERS
KNOCKS_PER_SECOND = 1000.0
MEMBER_KNOCKS_AT_ONCE = 8
MEMBER_KNOCKS_PER_SECOND = 2.0
# The event loop counts in milliseconds, and begins at once what is due in less than half of one: whoever waits for less
# makes it turn in circles until the clock has moved.
LOOP_TICK_SECONDS = 0.001
# How often it is told how many connections were turned away, and why.
LOBBY_REPORT_SECONDS = 10.0
# An address whose clients broke the protocol is on probation for so long. Honest clients may share it: so its newcomers
# still come in, at half the rate of all handshakes, in the order in which they came; so many may wait, which is what
# comes in within two thirds of a second. After an offence that cost much (hundreds of bad signatures may be checked
# before a connection is closed) nobody of the address comes in for a moment. Offences are told in the log so often.
PROBATION_SECONDS = 10.0
PROBATION_NEWCOMERS_PER_SECOND = CLIENT_HANDSHAKES_PER_SECOND / 2
PROBATION_NEWCOMERS_WAITING = 64
OFFENCES_TOLD_AT_ONCE = 16
OFFENCES_TOLD_PER_SECOND = 1.0
COSTLY_OFFENCE_PAUSE_SECONDS = 0.25
MAX_ADDRESSES_ON_PROBATION = 4096
HANDSHAKE_TIMEOUT_SECONDS = 5.0
CLIENT_IDLE_TIMEOUT_SECONDS = 600.0
# Questions about the status: how many one connection may have open, the pause between two answers (everybody who asked
# meanwhile gets the same), how much of the loop's time goes into them, and how much of its time the application may
# spend on digests of its state.
MAX_OPEN_QUESTIONS = 16
STATUS_INTERVAL_SECONDS = 0.01
MAX_STATUS_SHARE = 0.05
MAX_DIGEST_SHARE = 0.2
# Queries that are read without being ordered: how many the application answers in one turn, how much of its time they
# may take, and the longest answer, which travels in base64 in a status answer.
READS_AT_ONCE = 16
MAX_READ_SHARE = 0.05
MAX_READ_BYTES = 45 * 1024
# Replicas tell each other how far they are every second or so: one that is silent for so long is gone.
PEER_IDLE_TIMEOUT_SECONDS = 30.0
# What the loop does for one peer without any use, in seconds of its CPU: messages that were here before cost as much to
# check. Beyond this the peer is read more slowly; all that may be faulty have the share together, and leave the rest of
# the loop to the others. Votes of correct peers are of no use either when a quorum is here without them. But at least
# 2f correct peers send alike, so each of them takes 1 / 2f of the loop at most, whatever a vote costs and whoever is
# silent: one half of it, divided by f, is reached by none. (Measured, with a loop that does nothing but vote: 0.15 of
# it for each of four replicas, which may take 0.5; of seven 0.11 and 0.25; of 64 0.010 and 0.024. Sockets, which cost
# more than votes, make it a third of that.)
USELESS_SECONDS_AT_ONCE = 2.0
USELESS_SHARE = 0.5
# A frame that began must be complete within this time: what a slow-drip connection may hold open.
FRAME_TIMEOUT_SECONDS = 30.0
CONNECTION_LOOK_SECONDS = 1.0
READ_BUFFER_BYTES = 256 * 1024
# Bytes waiting to be written to one connection before its reading stops (backpressure), and before it is closed.
WRITE_HIGH_WATER_BYTES = 8 * 1024 * 1024
WRITE_LIMIT_BYTES = 64 * 1024 * 1024
# And to all clients of a replica together: beyond it those that most waits for are closed. Each of them may be as slow
# as it likes, but not all.
MAX_BYTES_WAITING_FOR_CLIENTS = 512 * 1024 * 1024
# How long the end of TLS on the other side is waited for when we close: many times the way there and back.
GOODBYE_SECONDS = 0.5
RECONNECT_INITIAL_SECONDS = 0.05
RECONNECT_MAX_SECONDS = 2.0

# Names and their addresses. Each name has one look-up in flight at most, on a thread of its own: threads for as many
# names as a few chains have members. What was found is kept for as many as many chains have.
MAX_LOOKUPS_IN_FLIGHT = 4 * MAX_MEMBERS
MAX_KNOWN_NAMES = 16 * MAX_MEMBERS
# A name that was found before is dialed where it was then, when its look-up takes longer than this.
LOOKUP_PATIENCE_SECONDS = 0.5
# A replica that starts waits so long for its own name.
LOOKUP_AT_START_SECONDS = 10.0
# Addresses of one name that are tried in one attempt; those that failed come last in the next one.
MAX_ADDRESSES_OF_A_NAME = 8
# The next address is tried beside one that has not answered for so long (RFC 8305 recommends it).
ADDRESS_STAGGER_SECONDS = 0.25
# A handshake at one of several addresses may take so long at first, and twice as long each time that one fails there:
# somebody who accepts connections and says nothing must not keep anybody from the other addresses.
FIRST_HANDSHAKE_AT_AN_ADDRESS_SECONDS = 1.0
# The command line. Commands of one key share sessions: so many may run at once on a host, which leaves some of the
# key's sessions to its other clients. Their files are kept for longer than the longest lease.
COMMANDS_AT_ONCE = MAX_SESSIONS_PER_KEY - 4
SESSION_FILES_DAYS = 31
# Coins of one owner that a wallet looks at to pay or to merge: a few seconds of listing, a few megabytes. Whoever has
# more merges them in several goes.
MAX_WALLET_COINS = 65536

# What a replica writes to its standard output and error waits for a reader: hours of messages of a quiet replica, and
# nothing beside its memory. At its end the reader has so long to take what is left.
STREAM_QUEUE_BYTES = 1024 * 1024
STREAM_DRAIN_SECONDS = 1.0

# Clients.
CLIENT_RETRANSMIT_SECONDS = 1.0
CLIENT_RETRANSMIT_MAX_SECONDS = 8.0
# The thread of a blocking client keeps the timeouts; something may keep the thread. So much later the caller goes on
# without it, and so long a closing client waits for its threads.
CLIENT_THREAD_SECONDS = 1.0
CLIENT_CLOSE_SECONDS = 5.0
# Outcomes that came after the invocation had given up, kept in case it is asked for them: 16 MiB with the largest
# results. Later the replicas are asked again, which keep those of a window themselves.
MAX_LATE_OUTCOMES = 256
