"""The function tables of the native crate, for the other compiled modules to cimport.

Only the module `native` links the crate; the others reach it through these pointers. One section per area: the C header
`include/fastpath.h` is the truth, and a section repeats what Cython must know of it. The function pointers are `nogil`.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "fastpath.h" nogil:
    const int FP_OK
    const int FP_PANIC
    const int FP_INVALID

    ctypedef struct fp_slice_t:
        const uint8_t *data
        size_t length

    ctypedef struct fp_buffer_t:
        uint8_t *data
        size_t length
        size_t capacity


# --- hashing ----------------------------------------------------------------------------------------------------------
cdef extern from "fastpath.h" nogil:
    ctypedef struct fp_packed_t:
        fp_slice_t data
        const uint8_t *offsets
        size_t count

    ctypedef struct fp_hashing_t:
        uint32_t (*version)() noexcept nogil
        int32_t (*hash_many)(
            const fp_slice_t *messages, size_t count, const uint8_t *key, uint8_t *digests) noexcept nogil
        int32_t (*hash_packed)(const fp_packed_t *messages, const uint8_t *key, uint8_t *digests) noexcept nogil
        int32_t (*derive_key)(const fp_slice_t *context, const fp_slice_t *material, uint8_t *key) noexcept nogil
        int32_t (*merkle_root)(const fp_slice_t *leaves, size_t count, uint8_t *root) noexcept nogil
        int32_t (*merkle_root_packed)(const fp_packed_t *leaves, uint8_t *root) noexcept nogil
        int32_t (*merkle_proof)(
            const fp_slice_t *leaves, size_t count, size_t index, fp_buffer_t *proof) noexcept nogil
        int32_t (*merkle_verify)(
            const uint8_t *root, const fp_slice_t *leaf, uint64_t index, uint64_t count,
            const fp_slice_t *proof) noexcept nogil

# --- verify -----------------------------------------------------------------------------------------------------------
cdef extern from "fastpath.h" nogil:
    ctypedef struct fp_verify_item_t:
        const uint8_t *public_key
        const uint8_t *signature
        fp_slice_t message

    ctypedef struct fp_verify_packed_t:
        const uint8_t *public_keys
        const uint8_t *signatures
        fp_slice_t messages
        const uint8_t *offsets
        size_t count

    ctypedef struct fp_parsed_key_t:
        pass

    ctypedef struct fp_verify_t:
        uint32_t (*version)() noexcept nogil
        int32_t (*verify)(
            const uint8_t *public_key, const uint8_t *signature, const uint8_t *message, size_t length) noexcept nogil
        int32_t (*verify_many)(
            const fp_verify_item_t *items, size_t count, size_t threads, uint8_t *mask) noexcept nogil
        int32_t (*verify_packed)(const fp_verify_packed_t *items, size_t threads, uint8_t *mask) noexcept nogil
        fp_parsed_key_t *(*key_parse)(const uint8_t *public_key) noexcept nogil
        int32_t (*key_verify)(
            const fp_parsed_key_t *key, const uint8_t *signature, const uint8_t *message, size_t length) noexcept nogil
        void (*key_free)(fp_parsed_key_t *key) noexcept nogil
        int32_t (*is_small_order)(const uint8_t *public_key) noexcept nogil
        int32_t (*set_threads)(size_t threads, int32_t nice) noexcept nogil

# --- log --------------------------------------------------------------------------------------------------------------
cdef extern from "fastpath.h" nogil:
    const int FP_LOG_STORAGE
    const int FP_LOG_CORRUPT
    const int FP_LOG_LOST

    ctypedef struct fp_log_encoder_t:
        pass

    ctypedef struct fp_log_parser_t:
        pass

    ctypedef struct fp_log_records_t:
        pass

    ctypedef struct fp_log_log_t:
        pass

    ctypedef struct fp_log_error_t:
        uint64_t offset
        uint64_t segment
        char message[512]

    ctypedef struct fp_log_identity_t:
        uint8_t chain_id[32]
        uint32_t replica

    ctypedef struct fp_log_settings_t:
        fp_slice_t folder
        fp_slice_t fault_plan
        fp_log_identity_t identity
        uint32_t mode
        uint64_t segment_bytes
        double sync_floor_seconds

    ctypedef struct fp_log_header_t:
        fp_log_identity_t identity
        uint64_t segment
        uint64_t size
        uint8_t previous[16]
        uint8_t nonce[16]

    ctypedef struct fp_log_record_t:
        const uint8_t *body
        size_t length
        uint64_t offset
        uint64_t instance
        uint16_t kind

    ctypedef struct fp_log_position_t:
        uint64_t segment
        uint64_t offset
        uint8_t previous[16]
        uint32_t verdict

    ctypedef struct fp_log_statistics_t:
        uint64_t bytes
        uint64_t records
        uint64_t syncs
        uint64_t segments
        double sync_seconds
        double sync_p50
        double sync_p99
        double group_records_mean

    ctypedef struct fp_log_t:
        uint32_t (*version)() noexcept nogil
        int32_t (*encoder_new)(const fp_log_header_t *header, fp_log_encoder_t **out) noexcept nogil
        void (*encoder_free)(fp_log_encoder_t *encoder) noexcept nogil
        int32_t (*encoder_header)(const fp_log_encoder_t *encoder, fp_buffer_t *out) noexcept nogil
        int32_t (*encoder_encode)(fp_log_encoder_t *encoder, uint16_t kind, uint64_t instance,
                                  const fp_slice_t *parts, size_t count, fp_buffer_t *out) noexcept nogil
        int32_t (*encoder_mark_synced)(fp_log_encoder_t *encoder) noexcept nogil
        int32_t (*encoder_position)(const fp_log_encoder_t *encoder, fp_log_position_t *out) noexcept nogil
        int32_t (*parser_new)(const fp_log_identity_t *identity, fp_log_parser_t **out) noexcept nogil
        void (*parser_free)(fp_log_parser_t *parser) noexcept nogil
        int32_t (*parser_parse)(fp_log_parser_t *parser, const uint8_t *segment, size_t length, uint32_t how,
                                fp_log_records_t **out, fp_log_error_t *error) noexcept nogil
        int32_t (*parser_position)(const fp_log_parser_t *parser, fp_log_position_t *out) noexcept nogil
        int32_t (*read_header)(const uint8_t *segment, size_t length, fp_log_header_t *out) noexcept nogil
        size_t (*records_count)(const fp_log_records_t *records) noexcept nogil
        int32_t (*records_get)(const fp_log_records_t *records, size_t index, fp_log_record_t *out) noexcept nogil
        void (*records_free)(fp_log_records_t *records) noexcept nogil
        int32_t (*open)(const fp_log_settings_t *settings, fp_log_log_t **out, fp_log_error_t *error) noexcept nogil
        int32_t (*recovered)(const fp_log_log_t *log, fp_log_records_t **out) noexcept nogil
        int32_t (*append)(const fp_log_log_t *log, uint16_t kind, uint64_t instance,
                          const fp_slice_t *parts, size_t count, uint32_t more,
                          uint64_t *sequence, fp_log_error_t *error) noexcept nogil
        int32_t (*completed)(const fp_log_log_t *log, uint64_t *sequence, fp_log_error_t *error) noexcept nogil
        int32_t (*wait)(const fp_log_log_t *log, uint64_t sequence, fp_log_error_t *error) noexcept nogil
        int32_t (*forget)(
            const fp_log_log_t *log, uint64_t instance, uint64_t *removed, fp_log_error_t *error) noexcept nogil
        int32_t (*fileno)(const fp_log_log_t *log) noexcept nogil
        int32_t (*lock_fileno)(const fp_log_log_t *log) noexcept nogil
        int32_t (*space_low)(const fp_log_log_t *log) noexcept nogil
        uint64_t (*pending_bytes)(const fp_log_log_t *log) noexcept nogil
        int32_t (*statistics)(const fp_log_log_t *log, fp_log_statistics_t *out) noexcept nogil
        int32_t (*close)(const fp_log_log_t *log, fp_log_error_t *error) noexcept nogil
        void (*free)(fp_log_log_t *log) noexcept nogil

# --- pool and frames --------------------------------------------------------------------------------------------------
cdef extern from "fastpath.h" nogil:
    const int FP_FRAME
    const int FP_MALFORMED
    const int FP_MISUSE
    const int FP_REFUSED
    const uint32_t FP_COMPLETED
    const uint32_t FP_OTHERS
    const uint32_t FP_LATENCIES
    const uint32_t FP_STATUSES
    const uint32_t FP_RESULTS
    const uint32_t FP_ACKNOWLEDGED

    ctypedef struct fp_request_pool_t:
        pass

    ctypedef struct fp_job_t:
        pass

    ctypedef struct fp_replies_t:
        pass

    ctypedef struct fp_verifier_t:
        pass

    ctypedef struct fp_reader_t:
        pass

    ctypedef struct fp_matcher_t:
        pass

    ctypedef struct fp_pool_config_t:
        uint64_t window
        uint64_t max_requests
        uint64_t max_bytes
        uint64_t max_operation_bytes
        uint64_t max_sessions
        uint64_t max_sessions_per_key
        uint64_t max_unverified_per_source
        uint64_t lease
        uint64_t skew
        uint64_t max_holds
        uint64_t max_idle
        uint32_t members
        uint32_t member
        uint16_t replica
        bint admit_unverified

    ctypedef struct fp_batch_t:
        fp_slice_t digests
        fp_slice_t data

    ctypedef struct fp_execution_t:
        uint64_t instance
        uint64_t timestamp
        uint32_t view
        uint8_t level

    ctypedef struct fp_pool_stats_t:
        uint64_t pending, verified, unverified, bytes, sessions, admitted, duplicates, bad_signatures, refused
        uint64_t signature_checks, idle, evicted, full

    ctypedef struct fp_frame_limit_t:
        uint32_t largest
        uint8_t kind

    ctypedef struct fp_jobs_t:
        void (*free)(fp_job_t *job) noexcept nogil
        size_t (*count)(const fp_job_t *job) noexcept nogil
        int32_t (*list)(const fp_job_t *job, fp_buffer_t *data) noexcept nogil
        int32_t (*item)(const fp_job_t *job, size_t number, fp_buffer_t *item) noexcept nogil
        int32_t (*run)(const fp_job_t *job, uint8_t *mask) noexcept nogil
        fp_verifier_t *(*verifier_create)(size_t threads, int32_t nice) noexcept nogil
        void (*verifier_free)(fp_verifier_t *verifier) noexcept nogil
        int32_t (*verifier_submit)(const fp_verifier_t *verifier, const fp_job_t *job, uint64_t number) noexcept nogil
        int32_t (*verifier_drain)(const fp_verifier_t *verifier, fp_buffer_t *finished) noexcept nogil
        int32_t (*verifier_descriptor)(const fp_verifier_t *verifier) noexcept nogil
        int32_t (*verifier_close)(const fp_verifier_t *verifier) noexcept nogil

    ctypedef struct fp_frames_t:
        fp_reader_t *(*reader_create)(
            const fp_frame_limit_t *limits, size_t count, const fp_request_pool_t *pool,
            uint64_t source) noexcept nogil
        void (*reader_free)(fp_reader_t *reader) noexcept nogil
        int32_t (*reader_feed)(
            const fp_reader_t *reader, fp_slice_t data, uint64_t now, fp_buffer_t *frames,
            fp_buffer_t *error) noexcept nogil
        int32_t (*reader_buffered)(const fp_reader_t *reader, size_t *bytes) noexcept nogil
        fp_matcher_t *(*matcher_create)(
            size_t replicas, size_t quorum, const fp_frame_limit_t *limits, size_t count) noexcept nogil
        void (*matcher_free)(fp_matcher_t *matcher) noexcept nogil
        int32_t (*matcher_expect)(
            const fp_matcher_t *matcher, fp_slice_t digests, uint64_t first_tag, uint64_t now) noexcept nogil
        int32_t (*matcher_forget)(const fp_matcher_t *matcher, const uint8_t *digest) noexcept nogil
        int32_t (*matcher_reset)(const fp_matcher_t *matcher, size_t replica) noexcept nogil
        int32_t (*matcher_feed)(
            const fp_matcher_t *matcher, size_t replica, fp_slice_t data, uint64_t now, size_t *completed,
            fp_buffer_t *error) noexcept nogil
        int32_t (*matcher_keep_replies)(const fp_matcher_t *matcher, bint keep) noexcept nogil
        int32_t (*matcher_outstanding)(const fp_matcher_t *matcher, size_t *count) noexcept nogil
        int32_t (*matcher_take)(const fp_matcher_t *matcher, uint32_t sort, fp_buffer_t *out) noexcept nogil

    ctypedef struct fp_holds_t:
        int32_t (*prove)(const fp_request_pool_t *pool, uint64_t source, const uint8_t *key) noexcept nogil
        int32_t (*hold)(
            const fp_request_pool_t *pool, uint32_t member, fp_slice_t digests, uint64_t now, size_t *changed,
            fp_buffer_t *error) noexcept nogil
        int32_t (*forget)(const fp_request_pool_t *pool, uint32_t member, fp_buffer_t *error) noexcept nogil
        int32_t (*take)(const fp_request_pool_t *pool, size_t most, fp_buffer_t *digests) noexcept nogil
        int32_t (*held)(
            const fp_request_pool_t *pool, uint64_t before, size_t most, fp_buffer_t *digests) noexcept nogil
        int32_t (*wanted)(
            const fp_request_pool_t *pool, uint32_t member, uint64_t before, uint64_t now, size_t most,
            fp_buffer_t *digests, size_t *any, fp_buffer_t *error) noexcept nogil
        int32_t (*requests)(
            const fp_request_pool_t *pool, fp_slice_t digests, size_t max_bytes, fp_buffer_t *data,
            fp_buffer_t *error) noexcept nogil

    ctypedef struct fp_pool_t:
        uint32_t (*version)() noexcept nogil
        fp_request_pool_t *(*create)(fp_slice_t chain_id, const fp_pool_config_t *config) noexcept nogil
        void (*free)(fp_request_pool_t *pool) noexcept nogil
        int32_t (*admit)(
            const fp_request_pool_t *pool, fp_slice_t list, uint64_t source, uint64_t now, size_t *count,
            fp_buffer_t *error) noexcept nogil
        int32_t (*admit_body)(
            const fp_request_pool_t *pool, fp_slice_t list, uint64_t now, size_t *count,
            fp_buffer_t *error) noexcept nogil
        int32_t (*drop_source)(const fp_request_pool_t *pool, uint64_t source) noexcept nogil
        int32_t (*pass_time)(const fp_request_pool_t *pool, uint64_t now) noexcept nogil
        int32_t (*take_unverified)(const fp_request_pool_t *pool, size_t most, fp_job_t **job) noexcept nogil
        int32_t (*apply_verdicts)(
            const fp_request_pool_t *pool, const fp_job_t *job, fp_slice_t mask, fp_slice_t reasons,
            fp_buffer_t *bad) noexcept nogil
        int32_t (*form_batch)(
            const fp_request_pool_t *pool, size_t max_requests, size_t max_bytes, uint64_t timestamp,
            fp_buffer_t *digests, fp_buffer_t *data) noexcept nogil
        int32_t (*resolve)(
            const fp_request_pool_t *pool, fp_slice_t digests, bint bound, fp_buffer_t *data,
            fp_buffer_t *missing, size_t *unverified, fp_buffer_t *error) noexcept nogil
        int32_t (*check)(
            const fp_request_pool_t *pool, fp_slice_t list, uint64_t timestamp, size_t max_requests,
            size_t max_bytes) noexcept nogil
        int32_t (*decide)(
            const fp_request_pool_t *pool, fp_batch_t batch, uint64_t instance, uint64_t timestamp,
            fp_buffer_t *error) noexcept nogil
        int32_t (*executed)(
            const fp_request_pool_t *pool, fp_batch_t batch, fp_slice_t results,
            const fp_execution_t *execution, fp_buffer_t *error) noexcept nogil
        int32_t (*release)(const fp_request_pool_t *pool, fp_batch_t batch, fp_buffer_t *error) noexcept nogil
        int32_t (*take_replies)(const fp_request_pool_t *pool, fp_replies_t **replies) noexcept nogil
        int32_t (*next_replies)(fp_replies_t *replies, uint64_t *source, fp_slice_t *frames) noexcept nogil
        void (*free_replies)(fp_replies_t *replies) noexcept nogil
        int32_t (*collect)(
            const fp_request_pool_t *pool, fp_slice_t digests, fp_buffer_t *data, fp_buffer_t *error) noexcept nogil
        int32_t (*overdue)(
            const fp_request_pool_t *pool, uint64_t before, size_t max_bytes, fp_buffer_t *data) noexcept nogil
        int32_t (*oldest_pending)(const fp_request_pool_t *pool, int64_t *arrival) noexcept nogil
        int32_t (*agreed_time)(const fp_request_pool_t *pool, uint64_t *time) noexcept nogil
        int32_t (*ready)(const fp_request_pool_t *pool, size_t *count) noexcept nogil
        int32_t (*set_accepting)(const fp_request_pool_t *pool, bint accepting) noexcept nogil
        int32_t (*session)(
            const fp_request_pool_t *pool, const uint8_t *key, uint64_t number, uint64_t *cursors) noexcept nogil
        int32_t (*cached_reply)(
            const fp_request_pool_t *pool, const uint8_t *key, uint64_t number, uint64_t sequence,
            fp_buffer_t *reply) noexcept nogil
        int32_t (*stats)(const fp_request_pool_t *pool, fp_pool_stats_t *stats) noexcept nogil
        int32_t (*export_sessions)(
            const fp_request_pool_t *pool, uint64_t instance, fp_buffer_t *data, fp_buffer_t *error) noexcept nogil
        int32_t (*capture_sessions)(
            const fp_request_pool_t *pool, uint64_t instance, uint64_t *capture, fp_buffer_t *error) noexcept nogil
        int32_t (*export_capture)(
            const fp_request_pool_t *pool, uint64_t capture, fp_buffer_t *data, fp_buffer_t *error) noexcept nogil
        int32_t (*import_sessions)(
            const fp_request_pool_t *pool, fp_slice_t data, uint64_t agreed_time, uint8_t level,
            fp_buffer_t *error) noexcept nogil
        int32_t (*digests)(fp_slice_t chain_id, fp_slice_t list, fp_buffer_t *out, fp_buffer_t *error) noexcept nogil
        fp_jobs_t jobs
        fp_frames_t frames
        fp_holds_t holds
        int32_t (*key_sessions)(
            const fp_request_pool_t *pool, const uint8_t *key, fp_buffer_t *data) noexcept nogil

# --- coin -------------------------------------------------------------------------------------------------------------
cdef extern from "fastpath.h" nogil:
    const int FP_COIN_MALFORMED
    const int FP_COIN_REFUSED

    ctypedef struct fp_coin_state_t:
        pass

    ctypedef struct fp_coin_capture_t:
        pass

    ctypedef struct fp_coin_t:
        uint32_t (*version)() noexcept nogil
        int32_t (*create)(
            const uint8_t *chain_id, const uint8_t *minters, size_t count, size_t receipt_bytes_mint,
            size_t receipt_bytes_spend, fp_coin_state_t **state) noexcept nogil
        void (*destroy)(fp_coin_state_t *state) noexcept nogil
        int32_t (*check_batch)(fp_slice_t data, fp_buffer_t *mask) noexcept nogil
        int32_t (*execute_batch)(
            const fp_coin_state_t *state, fp_slice_t data, int32_t verify_signatures,
            fp_buffer_t *results) noexcept nogil
        int32_t (*coins)(const fp_coin_state_t *state, uint64_t *count) noexcept nogil
        int32_t (*supply)(const fp_coin_state_t *state, uint8_t *amount) noexcept nogil
        int32_t (*minted)(const fp_coin_state_t *state, uint8_t *amount) noexcept nogil
        int32_t (*restore)(const fp_coin_state_t *state, fp_slice_t snapshot, fp_buffer_t *reason) noexcept nogil
        int32_t (*capture)(const fp_coin_state_t *state, fp_coin_capture_t **capture) noexcept nogil
        void (*capture_free)(fp_coin_capture_t *capture) noexcept nogil
        size_t (*capture_bytes)(const fp_coin_capture_t *capture) noexcept nogil
        int32_t (*capture_snapshot)(
            const fp_coin_capture_t *capture, uint8_t *snapshot, size_t length) noexcept nogil
        int32_t (*capture_digest)(const fp_coin_capture_t *capture, uint8_t *digest) noexcept nogil
        int32_t (*coin_id)(
            const uint8_t *chain_id, const uint8_t *client, uint64_t session, uint64_t sequence, uint32_t index,
            uint8_t *id) noexcept nogil
        int32_t (*read)(const fp_coin_state_t *state, fp_slice_t query, fp_buffer_t *result) noexcept nogil


cdef const fp_hashing_t *hashing_table
cdef const fp_verify_t *verify_table
cdef const fp_log_t *log_table
cdef const fp_pool_t *pool_table
cdef const fp_coin_t *coin_table
cdef void (*buffer_free)(fp_buffer_t *buffer) noexcept nogil


# --- what the modules share -------------------------------------------------------------------------------------------
cdef class View:
    """The contiguous bytes of somebody's buffer, held while native code reads them."""

    cdef Py_buffer buffer
    cdef fp_slice_t slice


cdef class Slices:
    """The bytes objects of a sequence as an array of slices, held while native code reads them."""

    cdef tuple items
    cdef fp_slice_t *data
    cdef size_t count


cdef class Integers64:
    """A contiguous buffer of native 64-bit integers, held while native code reads them."""

    cdef Py_buffer buffer
    cdef const uint8_t *data
    cdef size_t count


cdef bytes take_buffer(fp_buffer_t *buffer)
cdef int check(int32_t status) except -1
