"""The planted bugs of the promises, each with the suites that find it: a suite that has never failed proves nothing.

Each row names tests, which run with their suites; here it is checked that they are there.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from smartbft.testing.mutants import MUTANTS

ROOT = Path(__file__).parents[1]
SIMULATOR = "simulator/test_planted_bugs.py::test_a_planted_bug_is_found[{}]".format
EXPLORATION = "simulator/test_exploration.py::test_planted_bug_is_found[{}]".format
FORGERIES = "hostile/test_forged_regency_change.py::test_planted_bugs[{}]".format
SLOW = "simulator/test_slow_leader.py::{}".format
SEQUENTIAL = "simulator/test_sequential_checkpoints.py::test_{}".format
PASSED_OVER = "simulator/test_passed_over.py::{}".format
LOST_PROMISES = "protocols/test_promises_lost_after_a_sync.py::{}".format
KNOWN = "protocols/test_known_failures.py::test_{}".format

FOUND_BY = {
    # Quorums and certificates
    "quorum off by one": [SIMULATOR("quorum-off-by-one"), EXPLORATION("quorum off by one")],
    "accept before the WRITE quorum": [
        SIMULATOR("accept-before-write-quorum"),
        "protocols/test_vp_consensus.py::test_planted_bug_accept_before_the_write_quorum_is_seen",
    ],
    "certificate counts a signer twice": [
        FORGERIES("_no_proof_check-STOPDATA proof with a signer counted twice"),
        "core/test_validation.py::test_planted_bug_a_signer_counted_twice_is_seen",
    ],
    "f instead of f + 1 to join or follow": [
        KNOWN("b2_planted_bug"),
        "protocols/test_mod_smart_until_sync.py::test_planted_bug_stops_counted_for_members_are_seen",
    ],
    # Votes and the disk
    "vote not persisted": [SIMULATOR("votes-forgotten"), EXPLORATION("votes forgotten in a restart")],
    "vote persisted after it is sent": [
        SIMULATOR("vote-before-durable"),
        "simulator/test_campaigns.py::test_a_planted_bug_is_found_by_power_losses[vote-before-durable]",
        "runtime/test_journal.py::test_the_property_notices_planted_bugs[Hasty]",
    ],
    "vote without the record of votes": [
        "simulator/test_planted_bugs.py::test_a_replica_that_forgets_and_votes_is_found_in_memory_mode"
    ],
    "lock not persisted": [SIMULATOR("lock-not-persisted")],
    "regency not persisted": [
        SIMULATOR("regency-not-persisted"),
        EXPLORATION("regency forgotten in a restart"),
    ],
    "promise persisted after it is sent": [SIMULATOR("promise-before-durable")],
    "an ACCEPT inside a proof shown before it is durable": [SIMULATOR("proofs-before-durable")],
    "acknowledged before it is durable": [
        SIMULATOR("reply-before-durable"),
        "e2e/test_crash_recovery.py::test_replicas_that_keep_nothing_are_noticed",
    ],
    "fsync result ignored": ["fastpath/test_log_power_loss.py::test_acknowledging_before_the_sync_is_found"],
    "missing sync of the folder": ["fastpath/test_log_power_loss.py::test_a_missing_sync_of_the_folder_is_found"],
    "torn tail accepted as end": ["fastpath/test_log_damage.py::test_planted_bugs_are_found[EveryDamageIsATornTail]"],
    "any number of blank segments counts as prepared": [SIMULATOR("zeros-are-prepared")],
    "length outside the checksum": [
        "fastpath/test_log_damage.py::test_planted_bugs_are_found[LengthOutsideTheChecksum]"
    ],
    # Regency changes
    "lock released": [SIMULATOR("lock-released"), EXPLORATION("lock released at a regency change")],
    "vote in an old regency": [
        SIMULATOR("votes-in-old-regencies"),
        EXPLORATION("votes in a regency that is over"),
        "protocols/test_whys.py::test_why_installing_is_a_promise_planted_bug",
    ],
    "STOPDATA with a gap, or a higher instance, believed without a proof (B5)": [
        SIMULATOR("decisions-without-proof"),
        KNOWN("b5_planted_bug"),
        FORGERIES("_believing-STOPDATA decisions without a proof"),
    ],
    "collects of another regency (B1)": [
        SIMULATOR("old-collects-count"),
        KNOWN("b1_planted_bugs[check_sync-with STOPDATA of]"),
    ],
    "collects of strangers (B1)": [KNOWN("b1_planted_bugs[check_stop_data-its signer is no member]")],
    "write-set entries counted instead of replicas (B4)": [
        SIMULATOR("future-votes-in-collects"),
        EXPLORATION("certified counts entries"),
        KNOWN("b4_planted_bugs[entries twice]"),
    ],
    "SYNC value unchecked": [
        SIMULATOR("any-value-in-a-sync"),
        EXPLORATION("a SYNC with any value is taken up"),
        FORGERIES("_any_set-SYNC another value than the one that binds"),
    ],
    "SYNC picks the shortest log": [
        EXPLORATION("collects of decided instances count"),
        SIMULATOR("older-values-win"),
        EXPLORATION("an older value displaces a newer one"),
    ],
    "a proof weighed as votes": [
        SIMULATOR("proofs-weighed-as-votes"),
        "protocols/test_hidden_accepts.py::test_planted_bug_a_proof_weighed_as_votes_stops_the_cluster[4]",
    ],
    "regency change waits for the wrong set": ["simulator/test_cut_off.py::test_planted_bugs[waits for all]"],
    "one partitioned replica stops the rest": ["simulator/test_cut_off.py::test_planted_bugs[decides with all]"],
    "a replica that was away never catches up": ["simulator/test_cut_off.py::test_planted_bugs[never catches up]"],
    "locked certificate left out, check skipped": [
        "core/test_witness.py::test_planted_bug_a_replica_that_forgets_its_lock_is_accused",
        SIMULATOR("lock-released"),
    ],
    # Slow leaders
    "a leader is never too slow": [SLOW("test_planted_bug_a_leader_that_is_never_too_slow_is_found")],
    "patience with slow leaders never grows": [SLOW("test_planted_bug_patience_that_never_grows_is_found")],
    "a leader is late for what it cannot propose": [SLOW("test_planted_bug_a_leader_that_is_not_reminded_is_found")],
    "our own verification is the leader's delay": [
        "protocols/test_leader_watch.py::test_planted_bug_blaming_the_leader_for_our_verification_is_found"
    ],
    "a leader may leave old requests out": [
        PASSED_OVER("test_planted_bug_a_leader_that_may_pass_requests_over_is_found")
    ],
    "a leader may use every limit at once": [
        "simulator/test_stingy_leader.py::test_planted_bug_nobody_adds_up_what_is_nearly_late",
        "core/test_request_waits.py::test_planted_bug_only_what_is_ordered_counts",
    ],
    "requests wait for a leader that was not told of them": [
        "protocols/test_left_out.py::test_planted_bug_a_leader_that_is_not_told_is_found"
    ],
    "a leader is to blame for what it was not reminded of": [
        "protocols/test_passed_over.py::test_planted_bug_a_leader_that_is_not_reminded_is_found"
    ],
    "a full batch is held against its leader": [
        "protocols/test_passed_over.py::test_planted_bug_full_batches_held_against_a_leader_are_found"
    ],
    "patience with leaders that verify slowly never grows": [
        PASSED_OVER("test_planted_bug_patience_with_what_is_passed_over_never_grows")
    ],
    # Checkpoints and state transfer
    "checkpoint digest ignores the session table": [SIMULATOR("snapshot-without-sessions")],
    "application captured too late": [SIMULATOR("captured-late")],
    "a quick disk runs ahead of those that it needs": ["core/test_uneven_disks.py::test_planted_bug_nobody_waits"],
    "replicas that missed each other's checkpoint never meet": [
        "core/test_uneven_disks.py::test_planted_bug_nobody_meets"
    ],
    "a liar's state taken for a divergence": [
        SIMULATOR("one-liar-is-a-divergence"),
        "core/test_divergence.py::test_planted_bug_one_liar_is_believed",
    ],
    "nobody is told where all states differ": [
        "core/test_divergence.py::test_planted_bug_only_an_agreement_of_others_counts"
    ],
    "a snapshot of one installed without rehearsal": [SEQUENTIAL("installing_without_a_rehearsal_is_found")],
    "a seeder counted twice": [SEQUENTIAL("counting_the_seeder_twice_is_found")],
    "new keys forgotten in a rehearsal": [SEQUENTIAL("a_rehearsal_that_forgets_new_keys_is_found")],
    "a seeder blamed for what fails here": [
        SEQUENTIAL("planted_bug_whoever_made_the_application_fail_is_a_liar"),
        SEQUENTIAL("planted_bug_nobody_counts_what_is_refuted"),
    ],
    "an application that hangs in a rehearsal": [
        SEQUENTIAL("planted_bug_nobody_looks_whether_the_application_comes_back")
    ],
    "a rehearsal on the word of liars": [
        "core/test_sequential_checkpoints.py::test_rehearsing_on_the_word_of_liars_is_found"
    ],
    # New consensus keys
    "votes count with keys of another time": [SIMULATOR("first-keys-for-ever"), SIMULATOR("newest-keys-for-all")],
    "a new key used before it is ordered": [SIMULATOR("votes-before-its-key")],
    "keys of other members stated": [SIMULATOR("keys-of-anybody")],
    "a key replaced that is not in force": [SIMULATOR("any-key-replaced")],
    "promises count with keys that were replaced": [
        SIMULATOR("old-promises-count"),
        "protocols/test_new_consensus_keys.py::test_planted_bug_promises_with_the_first_keys",
    ],
    "a SYNC stays in force when a promise in it is void": [
        SIMULATOR("syncs-outlive-keys"),
        LOST_PROMISES("test_planted_bug_the_sync_stays_in_force_after_a_key_change"),
    ],
    # Requests and clients
    "predicate gamma skipped": [SIMULATOR("duplicate-executed")],
    "duplicate request applied after a regency change": [
        "simulator/test_linearizability.py::test_a_planted_bug_shows_in_what_clients_see[executed-twice]",
        KNOWN("b3_planted_bug"),
    ],
    "executed out of order": [SIMULATOR("execution-out-of-order")],
    "reply believed from f": [
        "simulator/test_linearizability.py::test_a_planted_bug_shows_in_what_clients_see[reply-from-f]"
    ],
    "read from one replica": [
        "simulator/test_linearizability.py::test_a_planted_bug_shows_in_what_clients_see[read-from-one]"
    ],
    "proposed or voted unvouched": [SIMULATOR("proposes-too-early"), SIMULATOR("votes-unvouched")],
    "announced once": [SIMULATOR("announces-once")],
    "what nobody can propose keeps its room": [SIMULATOR("gaps-keep-room")],
    "sessions behind gaps hold places": [SIMULATOR("gaps-hold-places")],
    # Hostile input
    "answers to peers without end": [SIMULATOR("answers-without-end")],
    "domain prefix missing": [
        "hostile/test_signature_domains.py::test_planted_bug_without_domains_a_vote_passes_on_another_chain",
        FORGERIES("_without_domains-STOPDATA of another chain"),
    ],
    "evidence without domain check": ["core/test_evidence.py::test_planted_bug_no_domain_check"],
    "culprits of a split not named": [
        "simulator/test_planned_splits.py::test_planted_bug_two_accepts_are_no_contradiction"
    ],
    "canonical-S check missing": ["fastpath/test_verify.py::test_a_verifier_that_takes_any_s_is_found_out"],
    "batch verifier ignores the last item": [
        "fastpath/test_verify.py::test_a_batch_that_forgets_its_last_item_is_found_out"
    ],
    "early-message quota global instead of per sender": [
        "hostile/test_future_messages.py::test_planted_bug_a_global_quota",
        "core/test_inbox.py::test_planted_bug_a_global_quota_is_seen",
        KNOWN("b9_planted_bugs[_one_for_all]"),
    ],
    "unverified ACCEPTs in proofs (B6)": [KNOWN("b6_planted_bug")],
    "proofs with too few signatures (B7)": [KNOWN("b7_planted_bugs")],
    "iteration over a set": [
        "simulator/test_determinism.py::test_a_run_that_depends_on_its_process_is_found[set-hash_seeds0]"
    ],
}


@pytest.mark.slow
def test_every_finder_is_there():
    finders = sorted({finder for finders in FOUND_BY.values() for finder in finders})
    nodes = [f"tests/{finder}" for finder in finders]
    collect = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *nodes]
    done = subprocess.run(collect, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    collected = {line for line in done.stdout.splitlines() if "::" in line}
    assert collected == set(nodes)


def test_every_bug_of_the_simulator_is_in_the_table():
    finders = {finder for finders in FOUND_BY.values() for finder in finders}
    assert {SIMULATOR(mutant.name) for mutant in MUTANTS} <= finders
