/* The C boundary between the Cython modules and the Rust crate: one section and one function table per area.
 *
 * Each table is a `#[repr(C)] struct Table` in src/ffi/<area>.rs with the same fields in the same order.
 * Pointers are borrowed for the duration of a call unless a comment says otherwise. Functions that return
 * `int32_t` return a status: FP_OK, or a negative code. None needs the GIL, none takes it.
 */
#ifndef SMARTBFT_FASTPATH_H
#define SMARTBFT_FASTPATH_H

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

typedef struct {
    uint32_t (*version)(void);
} fp_hashing_t;

const fp_hashing_t *fp_hashing(void);

/* --- verify --------------------------------------------------------------------------------------------------- */

typedef struct {
    uint32_t (*version)(void);
} fp_verify_t;

const fp_verify_t *fp_verify(void);

/* --- log ------------------------------------------------------------------------------------------------------ */

typedef struct {
    uint32_t (*version)(void);
} fp_log_t;

const fp_log_t *fp_log(void);

/* --- pool and frames ------------------------------------------------------------------------------------------ */

typedef struct {
    uint32_t (*version)(void);
} fp_pool_t;

const fp_pool_t *fp_pool(void);

/* --- coin ----------------------------------------------------------------------------------------------------- */

typedef struct {
    uint32_t (*version)(void);
} fp_coin_t;

const fp_coin_t *fp_coin(void);

#endif
