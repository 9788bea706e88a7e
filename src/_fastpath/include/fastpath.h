/* The C boundary between the Cython modules and the Rust crate: one section and one function table per area.
 *
 * Each table is a `#[repr(C)] struct Table` in src/ffi/<area>.rs with the same fields in the same order.
 * Pointers are borrowed for the duration of a call unless a comment says otherwise. Functions that return
 * `int32_t` return a status: FP_OK, or a negative code. None needs the GIL, none takes it.
 */
#ifndef SMARTBFT_FASTPATH_H
#define SMARTBFT_FASTPATH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FP_OK 0
#define FP_PANIC (-1)   /* a bug in the crate, caught at the boundary */
#define FP_INVALID (-2) /* an argument is out of its bounds */

/* Bytes that the caller owns. */
typedef struct {
    const uint8_t *data;
    size_t length;
} fp_slice_t;

/* Bytes that the crate allocated and handed over: free them with `fp_buffer_free`. */
typedef struct {
    uint8_t *data;
    size_t length;
    size_t capacity;
} fp_buffer_t;

void fp_buffer_free(fp_buffer_t *buffer);

/* --- hashing -------------------------------------------------------------------------------------------------- */

/* Slices of one buffer; slice i is data[offsets[i]] up to data[offsets[i + 1]]. */
typedef struct {
    fp_slice_t data;
    const uint8_t *offsets; /* count + 1 native 64-bit integers, aligned or not */
    size_t count;
} fp_packed_t;

/* Digests and keys have 32 bytes; a null key stands for the plain hash. FP_INVALID: the offsets decrease or leave the
 * data, the context is not UTF-8, there is no such leaf. */
typedef struct {
    uint32_t (*version)(void);
    int32_t (*hash_many)(const fp_slice_t *messages, size_t count, const uint8_t *key, uint8_t *digests);
    int32_t (*hash_packed)(const fp_packed_t *messages, const uint8_t *key, uint8_t *digests);
    int32_t (*derive_key)(const fp_slice_t *context, const fp_slice_t *material, uint8_t *key);
    int32_t (*merkle_root)(const fp_slice_t *leaves, size_t count, uint8_t *root);
    int32_t (*merkle_root_packed)(const fp_packed_t *leaves, uint8_t *root);
    int32_t (*merkle_proof)(const fp_slice_t *leaves, size_t count, size_t index, fp_buffer_t *proof);
    /* 1 if the proof holds, else 0. */
    int32_t (*merkle_verify)(
        const uint8_t *root, const fp_slice_t *leaf, uint64_t index, uint64_t count, const fp_slice_t *proof);
} fp_hashing_t;

const fp_hashing_t *fp_hashing(void);

/* --- verify --------------------------------------------------------------------------------------------------- */

/* One signature to check. A null key or signature stands for one of the wrong length: the verdict is 0. */
typedef struct {
    const uint8_t *public_key; /* 32 bytes */
    const uint8_t *signature;  /* 64 bytes */
    fp_slice_t message;
} fp_verify_item_t;

/* Items in contiguous buffers; message i is messages[offsets[i]] up to messages[offsets[i + 1]]. */
typedef struct {
    const uint8_t *public_keys; /* 32 * count bytes */
    const uint8_t *signatures;  /* 64 * count bytes */
    fp_slice_t messages;
    const uint8_t *offsets;     /* count + 1 native 64-bit integers, aligned or not */
    size_t count;
} fp_verify_packed_t;

typedef struct fp_parsed_key fp_parsed_key_t;

typedef struct {
    uint32_t (*version)(void);
    /* 1 if the signature verifies, else 0. */
    int32_t (*verify)(const uint8_t *public_key, const uint8_t *signature, const uint8_t *message, size_t length);
    /* Writes one verdict per item, 1 or 0. `threads` 0: as many as the pool has. */
    int32_t (*verify_many)(const fp_verify_item_t *items, size_t count, size_t threads, uint8_t *mask);
    /* The same; FP_INVALID if the offsets decrease or leave the messages. */
    int32_t (*verify_packed)(const fp_verify_packed_t *items, size_t threads, uint8_t *mask);
    /* Null if the 32 bytes are not a point. */
    fp_parsed_key_t *(*key_parse)(const uint8_t *public_key);
    int32_t (*key_verify)(const fp_parsed_key_t *key, const uint8_t *signature, const uint8_t *message, size_t length);
    void (*key_free)(fp_parsed_key_t *key);
    /* 1 if the key is a point of small order or no point, else 0. */
    int32_t (*is_small_order)(const uint8_t *public_key);
    /* Threads (0: one per core) and niceness (0 to 19) of the pool. */
    int32_t (*set_threads)(size_t threads, int32_t nice);
} fp_verify_t;

const fp_verify_t *fp_verify(void);

/* --- log ------------------------------------------------------------------------------------------------------ */

#define FP_LOG_STORAGE (-3) /* StorageError */
#define FP_LOG_CORRUPT (-4) /* CorruptLog */
#define FP_LOG_LOST (-5)    /* DurabilityLost */

typedef struct fp_log_encoder fp_log_encoder_t;
typedef struct fp_log_parser fp_log_parser_t;
typedef struct fp_log_records fp_log_records_t;
typedef struct fp_log_log fp_log_log_t;

typedef struct {
    uint64_t offset;
    uint64_t segment; /* UINT64_MAX: none in particular */
    char message[512]; /* UTF-8, ends with a zero byte */
} fp_log_error_t;

typedef struct {
    uint8_t chain_id[32];
    uint32_t replica;
} fp_log_identity_t;

typedef struct {
    fp_slice_t folder;
    fp_slice_t fault_plan; /* lines 'call k fault' */
    fp_log_identity_t identity;
    uint32_t mode; /* 0 memory, 1 async, 2 sync */
    uint64_t segment_bytes;
    double sync_floor_seconds;
} fp_log_settings_t;

typedef struct {
    fp_log_identity_t identity;
    uint64_t segment;
    uint64_t size; /* 0: not zero-filled ahead */
    uint8_t previous[16];
    uint8_t nonce[16]; /* for a new encoder all zero: one derived from the rest */
} fp_log_header_t;

typedef struct {
    const uint8_t *body; /* in the bytes that were parsed, or in the handle */
    size_t length;
    uint64_t offset; /* of the record's header in its segment */
    uint64_t instance;
    uint16_t kind;
} fp_log_record_t;

typedef struct {
    uint64_t segment;
    uint64_t offset;
    uint8_t previous[16];
    uint32_t verdict; /* 0 complete, 1 torn tail, 2 corrupt */
} fp_log_position_t;

typedef struct {
    uint64_t bytes;
    uint64_t records;
    uint64_t syncs;
    uint64_t segments;
    double sync_seconds;
    double sync_p50;
    double sync_p99;
    double group_records_mean;
} fp_log_statistics_t;

/* A handle lives until its `free`; the functions on the log may be called from several threads. */
typedef struct {
    uint32_t (*version)(void);
    int32_t (*encoder_new)(const fp_log_header_t *header, fp_log_encoder_t **out);
    void (*encoder_free)(fp_log_encoder_t *encoder);
    int32_t (*encoder_header)(const fp_log_encoder_t *encoder, fp_buffer_t *out);
    int32_t (*encoder_encode)(fp_log_encoder_t *encoder, uint16_t kind, uint64_t instance, const fp_slice_t *parts,
                              size_t count, fp_buffer_t *out);
    int32_t (*encoder_mark_synced)(fp_log_encoder_t *encoder);
    int32_t (*encoder_position)(const fp_log_encoder_t *encoder, fp_log_position_t *out);
    int32_t (*parser_new)(const fp_log_identity_t *identity, fp_log_parser_t **out);
    void (*parser_free)(fp_log_parser_t *parser);
    /* `how`: 0 other segments follow, 1 the last one, 2 only what is intact of one that is being written */
    int32_t (*parser_parse)(fp_log_parser_t *parser, const uint8_t *segment, size_t length, uint32_t how,
                            fp_log_records_t **out, fp_log_error_t *error);
    int32_t (*parser_position)(const fp_log_parser_t *parser, fp_log_position_t *out);
    int32_t (*read_header)(const uint8_t *segment, size_t length, fp_log_header_t *out);
    size_t (*records_count)(const fp_log_records_t *records);
    int32_t (*records_get)(const fp_log_records_t *records, size_t index, fp_log_record_t *out);
    void (*records_free)(fp_log_records_t *records);
    int32_t (*open)(const fp_log_settings_t *settings, fp_log_log_t **out, fp_log_error_t *error);
    int32_t (*recovered)(const fp_log_log_t *log, fp_log_records_t **out);
    int32_t (*append)(const fp_log_log_t *log, uint16_t kind, uint64_t instance, const fp_slice_t *parts, size_t count,
                      uint32_t more, uint64_t *sequence, fp_log_error_t *error);
    int32_t (*completed)(const fp_log_log_t *log, uint64_t *sequence, fp_log_error_t *error);
    int32_t (*wait)(const fp_log_log_t *log, uint64_t sequence, fp_log_error_t *error);
    int32_t (*forget)(const fp_log_log_t *log, uint64_t instance, uint64_t *removed, fp_log_error_t *error);
    int32_t (*fileno)(const fp_log_log_t *log);
    int32_t (*lock_fileno)(const fp_log_log_t *log);
    int32_t (*space_low)(const fp_log_log_t *log);
    uint64_t (*pending_bytes)(const fp_log_log_t *log);
    int32_t (*statistics)(const fp_log_log_t *log, fp_log_statistics_t *out);
    int32_t (*close)(const fp_log_log_t *log, fp_log_error_t *error);
    void (*free)(fp_log_log_t *log);
} fp_log_t;

const fp_log_t *fp_log(void);

/* --- pool and frames ------------------------------------------------------------------------------------------ */

#define FP_FRAME (-10)     /* a frame of an unknown kind or with a length out of its bounds */
#define FP_MALFORMED (-11) /* bytes that do not decode */
#define FP_MISUSE (-12)    /* the caller's mistake */
#define FP_REFUSED (-13)   /* a session table that is not canonical or beyond the limits */

/* Every `fp_buffer_t *` is a place for an outcome, to be freed by the caller; `error` gets a message in UTF-8 when the
 * status is one of the four above. Integers inside packed outcomes are native and have 64 bits. */

typedef struct fp_request_pool fp_request_pool_t;
typedef struct fp_job fp_job_t;
typedef struct fp_replies fp_replies_t;
typedef struct fp_verifier fp_verifier_t;
typedef struct fp_reader fp_reader_t;
typedef struct fp_matcher fp_matcher_t;

typedef struct {
    uint64_t window;
    uint64_t max_requests;
    uint64_t max_bytes;
    uint64_t max_operation_bytes;
    uint64_t max_sessions;
    uint64_t max_sessions_per_key;
    uint64_t max_unverified_per_source;
    uint64_t lease;
    uint64_t skew;
    uint64_t max_holds; /* digests of requests that are not here, of one member */
    uint64_t max_idle;  /* microseconds for which a request stays that could not be proposed */
    uint32_t members;   /* 0: requests are signed */
    uint32_t member;
    uint16_t replica;
    bool admit_unverified;
} fp_pool_config_t;

/* A batch: 32 bytes of digest per request, and the request list. */
typedef struct {
    fp_slice_t digests;
    fp_slice_t data;
} fp_batch_t;

typedef struct {
    uint64_t instance;
    uint64_t timestamp;
    uint32_t view;
    uint8_t level;
} fp_execution_t;

typedef struct {
    uint64_t pending, verified, unverified, bytes, sessions, admitted, duplicates, bad_signatures, refused;
    uint64_t signature_checks, idle, evicted, full;
} fp_pool_stats_t;

/* The largest payload of a kind of frame. */
typedef struct {
    uint32_t largest;
    uint8_t kind;
} fp_frame_limit_t;

/* Verification jobs and the threads that run them. */
typedef struct {
    void (*free)(fp_job_t *job);
    size_t (*count)(const fp_job_t *job);
    int32_t (*list)(const fp_job_t *job, fp_buffer_t *data);
    /* One request as `public key 32 | signature 64 | signed message`. */
    int32_t (*item)(const fp_job_t *job, size_t number, fp_buffer_t *item);
    /* Writes one verdict per request. */
    int32_t (*run)(const fp_job_t *job, uint8_t *mask);
    /* Null: the system refuses threads or descriptors. */
    fp_verifier_t *(*verifier_create)(size_t threads, int32_t nice);
    void (*verifier_free)(fp_verifier_t *verifier);
    /* FP_INVALID in a forked child. */
    int32_t (*verifier_submit)(const fp_verifier_t *verifier, const fp_job_t *job, uint64_t number);
    /* `number | count | verdicts` repeated. */
    int32_t (*verifier_drain)(const fp_verifier_t *verifier, fp_buffer_t *finished);
    int32_t (*verifier_descriptor)(const fp_verifier_t *verifier);
    int32_t (*verifier_close)(const fp_verifier_t *verifier);
} fp_jobs_t;

/* What `matcher_take` hands over. */
#define FP_COMPLETED 0    /* `tag | status | length | reply` repeated, once */
#define FP_OTHERS 1       /* `replica | kind | length | payload` repeated, once */
#define FP_LATENCIES 2    /* 32-bit integers, once */
#define FP_STATUSES 3     /* `status | count` repeated */
#define FP_RESULTS 4      /* `code | count` repeated */
#define FP_ACKNOWLEDGED 5 /* digests */

/* Frame readers and the reply matcher. */
typedef struct {
    /* With a null pool requests are returned like other frames. */
    fp_reader_t *(*reader_create)(
        const fp_frame_limit_t *limits, size_t count, const fp_request_pool_t *pool, uint64_t source);
    void (*reader_free)(fp_reader_t *reader);
    /* `frames` gets the complete frames other than admitted requests, with their headers. */
    int32_t (*reader_feed)(
        const fp_reader_t *reader, fp_slice_t data, uint64_t now, fp_buffer_t *frames, fp_buffer_t *error);
    int32_t (*reader_buffered)(const fp_reader_t *reader, size_t *bytes);
    /* Null: no replicas, more than 64, or a quorum that they cannot reach. */
    fp_matcher_t *(*matcher_create)(size_t replicas, size_t quorum, const fp_frame_limit_t *limits, size_t count);
    void (*matcher_free)(fp_matcher_t *matcher);
    int32_t (*matcher_expect)(const fp_matcher_t *matcher, fp_slice_t digests, uint64_t first_tag, uint64_t now);
    int32_t (*matcher_forget)(const fp_matcher_t *matcher, const uint8_t *digest);
    /* FP_INVALID, here and in the next: no such replica. */
    int32_t (*matcher_reset)(const fp_matcher_t *matcher, size_t replica);
    int32_t (*matcher_feed)(
        const fp_matcher_t *matcher, size_t replica, fp_slice_t data, uint64_t now, size_t *completed,
        fp_buffer_t *error);
    int32_t (*matcher_keep_replies)(const fp_matcher_t *matcher, bool keep);
    int32_t (*matcher_outstanding)(const fp_matcher_t *matcher, size_t *count);
    int32_t (*matcher_take)(const fp_matcher_t *matcher, uint32_t sort, fp_buffer_t *out);
} fp_frames_t;

/* Which members hold which request, where requests carry no signatures. Digest lists in and out. */
typedef struct {
    /* The client of a connection has proven a key (32 bytes). */
    int32_t (*prove)(const fp_request_pool_t *pool, uint64_t source, const uint8_t *key);
    int32_t (*hold)(
        const fp_request_pool_t *pool, uint32_t member, fp_slice_t digests, uint64_t now, size_t *changed,
        fp_buffer_t *error);
    /* The channel to a member is new: what it announced before counts no longer. */
    int32_t (*forget)(const fp_request_pool_t *pool, uint32_t member, fp_buffer_t *error);
    int32_t (*take)(const fp_request_pool_t *pool, size_t most, fp_buffer_t *digests);
    int32_t (*held)(const fp_request_pool_t *pool, uint64_t before, size_t most, fp_buffer_t *digests);
    int32_t (*wanted)(
        const fp_request_pool_t *pool, uint32_t member, uint64_t before, uint64_t now, size_t most,
        fp_buffer_t *digests, size_t *any, fp_buffer_t *error);
    int32_t (*requests)(
        const fp_request_pool_t *pool, fp_slice_t digests, size_t max_bytes, fp_buffer_t *data, fp_buffer_t *error);
} fp_holds_t;

typedef struct {
    uint32_t (*version)(void);
    fp_request_pool_t *(*create)(fp_slice_t chain_id, const fp_pool_config_t *config);
    void (*free)(fp_request_pool_t *pool);
    int32_t (*admit)(
        const fp_request_pool_t *pool, fp_slice_t list, uint64_t source, uint64_t now, size_t *count,
        fp_buffer_t *error);
    int32_t (*admit_body)(
        const fp_request_pool_t *pool, fp_slice_t list, uint64_t now, size_t *count, fp_buffer_t *error);
    int32_t (*drop_source)(const fp_request_pool_t *pool, uint64_t source);
    /* What could not be proposed for long goes, and sessions that lapsed unopened. */
    int32_t (*pass_time)(const fp_request_pool_t *pool, uint64_t now);
    /* The job is null if nothing waits. */
    int32_t (*take_unverified)(const fp_request_pool_t *pool, size_t most, fp_job_t **job);
    /* `reasons`: items, one per refused request, or fewer. `bad` gets `source | count` repeated; FP_INVALID: not one
     * verdict per request. */
    int32_t (*apply_verdicts)(
        const fp_request_pool_t *pool, const fp_job_t *job, fp_slice_t mask, fp_slice_t reasons, fp_buffer_t *bad);
    int32_t (*form_batch)(
        const fp_request_pool_t *pool, size_t max_requests, size_t max_bytes, uint64_t timestamp,
        fp_buffer_t *digests, fp_buffer_t *data);
    int32_t (*resolve)(
        const fp_request_pool_t *pool, fp_slice_t digests, bool bound, fp_buffer_t *data, fp_buffer_t *missing,
        size_t *unverified, fp_buffer_t *error);
    /* The verdict, or a negative status. */
    int32_t (*check)(
        const fp_request_pool_t *pool, fp_slice_t list, uint64_t timestamp, size_t max_requests, size_t max_bytes);
    int32_t (*decide)(
        const fp_request_pool_t *pool, fp_batch_t batch, uint64_t instance, uint64_t timestamp, fp_buffer_t *error);
    int32_t (*executed)(
        const fp_request_pool_t *pool, fp_batch_t batch, fp_slice_t results, const fp_execution_t *execution,
        fp_buffer_t *error);
    int32_t (*release)(const fp_request_pool_t *pool, fp_batch_t batch, fp_buffer_t *error);
    /* Null if nothing waits. */
    int32_t (*take_replies)(const fp_request_pool_t *pool, fp_replies_t **replies);
    /* 1 and the frames for one source, valid until the next call; 0 at the end. */
    int32_t (*next_replies)(fp_replies_t *replies, uint64_t *source, fp_slice_t *frames);
    void (*free_replies)(fp_replies_t *replies);
    int32_t (*collect)(const fp_request_pool_t *pool, fp_slice_t digests, fp_buffer_t *data, fp_buffer_t *error);
    int32_t (*overdue)(const fp_request_pool_t *pool, uint64_t before, size_t max_bytes, fp_buffer_t *data);
    /* -1 if no request is ready. */
    int32_t (*oldest_pending)(const fp_request_pool_t *pool, int64_t *arrival);
    int32_t (*agreed_time)(const fp_request_pool_t *pool, uint64_t *time);
    int32_t (*ready)(const fp_request_pool_t *pool, size_t *count);
    int32_t (*set_accepting)(const fp_request_pool_t *pool, bool accepting);
    /* Writes the cursors received, ordered, executed; 1 if the session is known, else 0. */
    int32_t (*session)(const fp_request_pool_t *pool, const uint8_t *key, uint64_t number, uint64_t *cursors);
    /* 1 if there is one, else 0. */
    int32_t (*cached_reply)(
        const fp_request_pool_t *pool, const uint8_t *key, uint64_t number, uint64_t sequence, fp_buffer_t *reply);
    int32_t (*stats)(const fp_request_pool_t *pool, fp_pool_stats_t *stats);
    int32_t (*export_sessions)(
        const fp_request_pool_t *pool, uint64_t instance, fp_buffer_t *data, fp_buffer_t *error);
    int32_t (*capture_sessions)(
        const fp_request_pool_t *pool, uint64_t instance, uint64_t *capture, fp_buffer_t *error);
    /* Takes a while; holds the pool for moments only. */
    int32_t (*export_capture)(
        const fp_request_pool_t *pool, uint64_t capture, fp_buffer_t *data, fp_buffer_t *error);
    int32_t (*import_sessions)(
        const fp_request_pool_t *pool, fp_slice_t data, uint64_t agreed_time, uint8_t level, fp_buffer_t *error);
    /* Digests of the requests of a list. */
    int32_t (*digests)(fp_slice_t chain_id, fp_slice_t list, fp_buffer_t *out, fp_buffer_t *error);
    fp_jobs_t jobs;
    fp_frames_t frames;
    fp_holds_t holds;
    /* Session number, last executed number and end of the lease of each open session of a key (32 bytes): 8 bytes each. */
    int32_t (*key_sessions)(const fp_request_pool_t *pool, const uint8_t *key, fp_buffer_t *data);
} fp_pool_t;

const fp_pool_t *fp_pool(void);

/* --- coin ----------------------------------------------------------------------------------------------------- */

#define FP_COIN_MALFORMED 1 /* the request list is malformed: nothing was executed */
#define FP_COIN_REFUSED 2   /* the snapshot was refused: the state is as it was */

/* One coin state. Its functions may be called from any thread; they wait for each other. */
typedef struct fp_coin_state fp_coin_state_t;

/* A coin state as it was when it was captured. Nothing changes it and it waits for nobody. */
typedef struct fp_coin_capture fp_coin_capture_t;

typedef struct {
    uint32_t (*version)(void);
    /* `chain_id`: 32 bytes; `minters`: 32 bytes each. FP_INVALID: a minter is a key of small order. */
    int32_t (*create)(const uint8_t *chain_id, const uint8_t *minters, size_t count, size_t receipt_bytes_mint,
                      size_t receipt_bytes_spend, fp_coin_state_t **state);
    void (*destroy)(fp_coin_state_t *state);
    /* Needs no state. `mask`: one byte per request. */
    int32_t (*check_batch)(fp_slice_t data, fp_buffer_t *mask);
    int32_t (*execute_batch)(const fp_coin_state_t *state, fp_slice_t data, int32_t verify_signatures,
                             fp_buffer_t *results);
    int32_t (*coins)(const fp_coin_state_t *state, uint64_t *count);
    /* 16 bytes, little-endian. */
    int32_t (*supply)(const fp_coin_state_t *state, uint8_t *amount);
    int32_t (*minted)(const fp_coin_state_t *state, uint8_t *amount);
    /* `reason`: ASCII, filled when the answer is FP_COIN_REFUSED. */
    int32_t (*restore)(const fp_coin_state_t *state, fp_slice_t snapshot, fp_buffer_t *reason);
    int32_t (*capture)(const fp_coin_state_t *state, fp_coin_capture_t **capture);
    void (*capture_free)(fp_coin_capture_t *capture);
    /* Bytes of the snapshot; 0 only after a panic. */
    size_t (*capture_bytes)(const fp_coin_capture_t *capture);
    /* `length`: as `capture_bytes` says, else FP_INVALID. */
    int32_t (*capture_snapshot)(const fp_coin_capture_t *capture, uint8_t *snapshot, size_t length);
    /* 32 bytes. */
    int32_t (*capture_digest)(const fp_coin_capture_t *capture, uint8_t *digest);
    int32_t (*coin_id)(const uint8_t *chain_id, const uint8_t *client, uint64_t session, uint64_t sequence,
                       uint32_t index, uint8_t *id);
    /* The result that a query would have if it were ordered next. FP_INVALID: the operation is no query. */
    int32_t (*read)(const fp_coin_state_t *state, fp_slice_t query, fp_buffer_t *result);
} fp_coin_t;

const fp_coin_t *fp_coin(void);

#endif
