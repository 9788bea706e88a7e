"""SMaRtCoin (SMaRtChain paper, section IV-A): the UTXO state and batch execution in native code, the GIL released.

The layouts of operations, results and the snapshot are in coin.pyi.
"""

from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, uint8_t, uint64_t

from smartbft._fastpath.native cimport (
    FP_COIN_MALFORMED,
    FP_COIN_REFUSED,
    FP_INVALID,
    FP_OK,
    View,
    coin_table,
    fp_buffer_t,
    fp_coin_capture_t,
    fp_coin_state_t,
    take_buffer,
)

from smartbft.errors import InvariantViolation, MalformedMessage

OK = 0
MALFORMED = 1
NOT_AUTHORISED = 2
UNKNOWN_COIN = 3
NOT_OWNER = 4
DUPLICATE_INPUT = 5
UNBALANCED = 6
OVERFLOW = 7
ZERO_AMOUNT = 8
BAD_SIGNATURE = 9
BAD_ADDRESS = 10
COIN_EXISTS = 11


cdef int _check(int32_t status) except -1:
    if status == FP_OK:
        return 0
    if status == FP_COIN_MALFORMED:
        raise MalformedMessage("malformed request list")
    raise InvariantViolation(f"the native coin failed (status {status}); its state must not be used any further")


cdef bytes _exactly(object value, Py_ssize_t size, str name):
    cdef bytes taken = bytes(value)
    if len(taken) != size:
        raise ValueError(f"{name} is {size} bytes, not {len(taken)}")
    return taken


cdef class CoinCapture:
    cdef fp_coin_capture_t *capture

    def __init__(self):
        raise TypeError("captures come from CoinState.capture")

    def __dealloc__(self):
        with nogil:
            coin_table.capture_free(self.capture)

    cdef fp_coin_capture_t *handle(self) except NULL:
        if self.capture == NULL:
            raise TypeError("captures come from CoinState.capture")
        return self.capture

    def snapshot(self):
        cdef fp_coin_capture_t *capture = self.handle()
        cdef size_t length = coin_table.capture_bytes(capture)
        # Filled in place: copying so many bytes would hold the GIL for long.
        cdef bytes snapshot = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> length)
        cdef uint8_t *place = <uint8_t *> PyBytes_AsString(snapshot)
        cdef int32_t status
        with nogil:
            status = coin_table.capture_snapshot(capture, place, length)
        _check(status)
        return snapshot

    def digest(self):
        cdef fp_coin_capture_t *capture = self.handle()
        cdef uint8_t digest[32]
        cdef int32_t status
        with nogil:
            status = coin_table.capture_digest(capture, digest)
        _check(status)
        return (<const char *> digest)[:32]


cdef class CoinState:
    cdef fp_coin_state_t *state

    def __cinit__(self, chain_id, minters, *, receipt_bytes_mint=0, receipt_bytes_spend=0):
        cdef bytes chain = _exactly(chain_id, 32, "the chain id")
        cdef bytes keys = bytes(minters)
        if len(keys) % 32:
            raise ValueError(f"minters are 32 bytes each; {len(keys)} bytes are no whole number of them")
        cdef int32_t status = coin_table.create(
            <const uint8_t *> <const char *> chain,
            <const uint8_t *> <const char *> keys,
            <size_t> (len(keys) // 32),
            <size_t> receipt_bytes_mint,
            <size_t> receipt_bytes_spend,
            &self.state,
        )
        if status == FP_INVALID:
            raise ValueError("a minter's key is a point of small order, for which anybody can sign")
        _check(status)

    def __dealloc__(self):
        coin_table.destroy(self.state)

    def check_batch(self, data):
        cdef View view = View(data)
        cdef fp_buffer_t mask = fp_buffer_t(NULL, 0, 0)
        cdef int32_t status
        with nogil:
            status = coin_table.check_batch(view.slice, &mask)
        _check(status)
        return take_buffer(&mask)

    def execute_batch(self, data, *, bint verify_signatures=False):
        cdef View view = View(data)
        cdef fp_buffer_t results = fp_buffer_t(NULL, 0, 0)
        cdef int32_t status
        with nogil:
            status = coin_table.execute_batch(self.state, view.slice, verify_signatures, &results)
        _check(status)
        return take_buffer(&results)

    def read(self, query):
        cdef View view = View(query)
        cdef fp_buffer_t result = fp_buffer_t(NULL, 0, 0)
        cdef int32_t status
        with nogil:
            status = coin_table.read(self.state, view.slice, &result)
        if status == FP_INVALID:
            return None
        _check(status)
        return take_buffer(&result)

    def coins(self):
        cdef uint64_t count = 0
        cdef int32_t status
        with nogil:
            status = coin_table.coins(self.state, &count)
        _check(status)
        return count

    def supply(self):
        cdef uint8_t amount[16]
        cdef int32_t status
        with nogil:
            status = coin_table.supply(self.state, amount)
        _check(status)
        return int.from_bytes((<const char *> amount)[:16], "little")

    def minted(self):
        cdef uint8_t amount[16]
        cdef int32_t status
        with nogil:
            status = coin_table.minted(self.state, amount)
        _check(status)
        return int.from_bytes((<const char *> amount)[:16], "little")

    def capture(self):
        cdef CoinCapture captured = CoinCapture.__new__(CoinCapture)
        cdef int32_t status
        with nogil:
            status = coin_table.capture(self.state, &captured.capture)
        _check(status)
        return captured

    def snapshot(self):
        return self.capture().snapshot()

    def restore(self, snapshot):
        cdef View view = View(snapshot)
        cdef fp_buffer_t reason = fp_buffer_t(NULL, 0, 0)
        cdef int32_t status
        with nogil:
            status = coin_table.restore(self.state, view.slice, &reason)
        if status == FP_COIN_REFUSED:
            raise ValueError(f"this is no snapshot to restore: {take_buffer(&reason).decode()}")
        _check(status)

    def digest(self):
        return self.capture().digest()


def coin_id(chain_id, key, uint64_t session, uint64_t sequence, unsigned int index):
    cdef bytes chain = _exactly(chain_id, 32, "the chain id")
    cdef bytes client = _exactly(key, 32, "a client key")
    cdef uint8_t made[32]
    _check(
        coin_table.coin_id(
            <const uint8_t *> <const char *> chain,
            <const uint8_t *> <const char *> client,
            session,
            sequence,
            index,
            made,
        )
    )
    return (<const char *> made)[:32]
