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
                          const fp_slice_t *parts, size_t count, uint64_t *sequence, fp_log_error_t *error) noexcept nogil
        int32_t (*completed)(const fp_log_log_t *log, uint64_t *sequence, fp_log_error_t *error) noexcept nogil
        int32_t (*wait)(const fp_log_log_t *log, uint64_t sequence, fp_log_error_t *error) noexcept nogil
        int32_t (*fileno)(const fp_log_log_t *log) noexcept nogil
        int32_t (*space_low)(const fp_log_log_t *log) noexcept nogil
        uint64_t (*pending_bytes)(const fp_log_log_t *log) noexcept nogil
        int32_t (*statistics)(const fp_log_log_t *log, fp_log_statistics_t *out) noexcept nogil
        int32_t (*close)(const fp_log_log_t *log, fp_log_error_t *error) noexcept nogil
        void (*free)(fp_log_log_t *log) noexcept nogil

# --- pool and frames --------------------------------------------------------------------------------------------------
cdef extern from "fastpath.h" nogil:
    ctypedef struct fp_pool_t:
        uint32_t (*version)() noexcept nogil

# --- coin -------------------------------------------------------------------------------------------------------------
cdef extern from "fastpath.h" nogil:
    const int FP_COIN_MALFORMED
    const int FP_COIN_REFUSED

    ctypedef struct fp_coin_state_t:
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
        int32_t (*snapshot)(const fp_coin_state_t *state, fp_buffer_t *snapshot) noexcept nogil
        int32_t (*restore)(const fp_coin_state_t *state, fp_slice_t snapshot, fp_buffer_t *reason) noexcept nogil
        int32_t (*digest)(const fp_coin_state_t *state, uint8_t *digest) noexcept nogil
        int32_t (*coin_id)(
            const uint8_t *chain_id, const uint8_t *client, uint64_t session, uint64_t sequence, uint32_t index,
            uint8_t *id) noexcept nogil


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


cdef bytes take(fp_buffer_t *buffer)
cdef int check(int32_t status) except -1
