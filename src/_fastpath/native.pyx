"""Links the native crate and holds its function tables; the other compiled modules cimport them from here."""


cdef extern from "fastpath.h" nogil:
    const fp_hashing_t *fp_hashing()
    const fp_verify_t *fp_verify()
    const fp_log_t *fp_log()
    const fp_pool_t *fp_pool()
    const fp_coin_t *fp_coin()
    void fp_buffer_free(fp_buffer_t *buffer)


hashing_table = fp_hashing()
verify_table = fp_verify()
log_table = fp_log()
pool_table = fp_pool()
coin_table = fp_coin()
buffer_free = fp_buffer_free


def versions() -> dict[str, int]:
    """The version of each function table, by area (for ``smartbft version`` and for tests of the linkage)."""
    return {
        "hashing": hashing_table.version(),
        "verify": verify_table.version(),
        "log": log_table.version(),
        "pool": pool_table.version(),
        "coin": coin_table.version(),
    }
