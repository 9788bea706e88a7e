# The layouts of requests and results, included by pool.pyx.

def encode_request(bytes key not None, object session, object sequence, object operation,
                   bytes signature not None) -> bytes:
    """The canonical bytes of a request. Raises ValueError: a field is out of its bounds."""
    cdef View body = View(operation)
    cdef Py_ssize_t length = body.buffer.len
    cdef uint64_t session_number = unsigned(session, "the session")
    cdef uint64_t sequence_number = unsigned(sequence, "the sequence number")
    fixed(key, KEY_BYTES, "a client key")
    fixed(signature, SIGNATURE_BYTES, "a signature")
    if sequence_number == 0:
        raise ValueError("sequence numbers start at 1")
    if length > MOST_U32:
        raise ValueError(f"an operation of {length} bytes does not fit its length field")
    result = PyBytes_FromStringAndSize(NULL, HEADER_BYTES + length + SIGNATURE_BYTES)
    cdef uint8_t *out = <uint8_t *> PyBytes_AsString(result)
    memcpy(out, PyBytes_AsString(key), KEY_BYTES)
    put_little(out + 32, session_number, 8)
    put_little(out + 40, sequence_number, 8)
    put_little(out + 48, <uint64_t> length, 4)
    if length > 0:
        memcpy(out + HEADER_BYTES, body.buffer.buf, length)
    memcpy(out + HEADER_BYTES + length, PyBytes_AsString(signature), SIGNATURE_BYTES)
    return result


cdef void put_little(uint8_t *out, uint64_t value, int count) noexcept:
    cdef int index
    for index in range(count):
        out[index] = <uint8_t> (value >> (8 * index))


cdef uint64_t get_little(const uint8_t *data, int count) noexcept:
    cdef uint64_t value = 0
    cdef int index
    for index in range(count):
        value |= (<uint64_t> data[index]) << (8 * index)
    return value


cdef uint64_t get_native(const uint8_t *data) noexcept:
    cdef uint64_t value
    memcpy(&value, data, 8)
    return value


def request_digests(object chain_id, object data) -> bytes:
    """Digests of the requests of a request list. Raises RemoteProtocolError: malformed."""
    cdef View chain = View(chain_id)
    cdef View requests = View(data)
    cdef fp_slice_t chain_slice = chain.slice
    cdef fp_slice_t request_slice = requests.slice
    cdef fp_buffer_t digests
    cdef fp_buffer_t error
    cdef int32_t status
    with nogil:
        status = pool_table.digests(chain_slice, request_slice, &digests, &error)
    check_status(status, &error)
    return take_buffer(&digests)


def split_requests(object data) -> list:
    """`(key, session, sequence, operation, signature)` of each. Raises RemoteProtocolError: malformed."""
    cdef View view = View(bytes_of(data, "a request list"))
    cdef const uint8_t *start = view.slice.data
    cdef const uint8_t *request
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t length
    cdef Py_ssize_t operation
    cdef list result = []
    while at < view.buffer.len:
        if view.buffer.len - at < 4:
            raise MalformedMessage(f"a request list that breaks off at byte {at}")
        length = <Py_ssize_t> get_little(start + at, 4)
        if length > view.buffer.len - at - 4 or length < HEADER_BYTES + SIGNATURE_BYTES:
            raise MalformedMessage(f"a request of {length} bytes at byte {at} of a list of {view.buffer.len}")
        request = start + at + 4
        operation = length - HEADER_BYTES - SIGNATURE_BYTES
        if <Py_ssize_t> get_little(request + 48, 4) != operation:
            raise MalformedMessage(f"the request at byte {at} declares another length of its operation than it has")
        if get_little(request + 40, 8) == 0:
            raise MalformedMessage(f"the request at byte {at} has sequence number 0; they start at 1")
        result.append((
            PyBytes_FromStringAndSize(<const char *> request, KEY_BYTES),
            get_little(request + 32, 8),
            get_little(request + 40, 8),
            PyBytes_FromStringAndSize(<const char *> request + HEADER_BYTES, operation),
            PyBytes_FromStringAndSize(<const char *> request + length - SIGNATURE_BYTES, SIGNATURE_BYTES),
        ))
        at += 4 + length
    return result


cdef bytes join_items(object items, object what):
    """Each item with its length before it."""
    cdef list parts = []
    for item in items:
        if type(item) is not bytes:
            item = bytes_of(item, what)
        parts.append(len(item).to_bytes(4, "little"))
        parts.append(item)
    return b"".join(parts)


def join_requests(object requests) -> bytes:
    """The request list of some requests."""
    return join_items(requests, "a request")


def join_results(object results) -> bytes:
    """The result list of some results."""
    return join_items(results, "a result")
