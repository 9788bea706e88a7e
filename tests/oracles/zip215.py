"""Ed25519 verification under ZIP-215 in plain Python, from the specification; slow and obvious.

Sources: RFC 8032, section 5.1 (the curve, decoding, the equation); ZIP 215 (what is accepted).
"""

from __future__ import annotations

from hashlib import sha512

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
SQRT_MINUS_ONE = pow(2, (P - 1) // 4, P)

Point = tuple[int, int, int, int]  # extended coordinates: x = X / Z, y = Y / Z, x * y = T / Z
NEUTRAL: Point = (0, 1, 1, 0)


def decode(encoding: bytes) -> Point | None:
    """The point with this encoding, or None. ZIP-215 reduces y modulo P and lets the sign of x = 0 be anything."""
    number = int.from_bytes(encoding, "little")
    y = (number & (2**255 - 1)) % P
    numerator, denominator = (y * y - 1) % P, (D * y * y + 1) % P
    square = numerator * pow(denominator, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * SQRT_MINUS_ONE % P
    if x * x % P != square:
        return None
    if x % 2 != number >> 255:
        x = -x % P
    return (x, y, 1, x * y % P)


def add(left: Point, right: Point) -> Point:
    x1, y1, z1, t1 = left
    x2, y2, z2, t2 = right
    a, b = (y1 - x1) * (y2 - x2) % P, (y1 + x1) * (y2 + x2) % P
    c, d = 2 * D * t1 * t2 % P, 2 * z1 * z2 % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def multiply(scalar: int, point: Point) -> Point:
    result = NEUTRAL
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point = add(point, point)
        scalar >>= 1
    return result


def equal(left: Point, right: Point) -> bool:
    return (left[0] * right[2] - right[0] * left[2]) % P == 0 and (left[1] * right[2] - right[1] * left[2]) % P == 0


_base = decode((4 * pow(5, -1, P) % P).to_bytes(32, "little"))
assert _base is not None
BASE: Point = _base


def verify(public_key: bytes, signature: bytes, message: bytes, *, canonical_s: bool = True) -> bool:
    """Whether the signature is valid under ZIP-215.

    Args:
        canonical_s: False leaves out the rule that s is less than the group's order: a bug that the tests must see.
    """
    if len(public_key) != 32 or len(signature) != 64:
        return False
    key, nonce = decode(public_key), decode(signature[:32])
    s = int.from_bytes(signature[32:], "little")
    if key is None or nonce is None or (canonical_s and s >= ORDER):
        return False
    k = int.from_bytes(sha512(signature[:32] + public_key + message).digest(), "little") % ORDER
    return equal(multiply(8 * s, BASE), multiply(8, add(nonce, multiply(k, key))))


def is_small_order(public_key: bytes) -> bool:
    """Whether the key is a point of small order, or no point at all."""
    point = decode(public_key) if len(public_key) == 32 else None
    return point is None or equal(multiply(8, point), NEUTRAL)
