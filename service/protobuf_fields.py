"""How many fields a protobuf message has, told without parsing it: two bytes of an empty element become a
hundred in memory, so a message of some MB would take gigabytes before anybody could count its products."""

from __future__ import annotations

MOST_FIELDS = 1_024  # at the top; a request of 256 products has some 260
_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32 = range(6)


def has_more_fields(message: bytes, most: int = MOST_FIELDS) -> bool:
    """Whether more than `most` fields stand at the top of a message (and within its groups). What is no
    protobuf is not said here: the parser does."""
    at = seen = 0
    try:
        while at < len(message):
            seen += 1
            if seen > most:
                return True
            tag, at = _varint(message, at)
            kind = tag & 7
            if kind == _VARINT:
                _, at = _varint(message, at)
            elif kind == _BYTES:
                size, at = _varint(message, at)
                at += size
            elif kind in (_FIXED64, _FIXED32):
                at += 8 if kind == _FIXED64 else 4
            elif kind not in (_GROUP, _GROUP_END):
                return False
    except IndexError:  # it ends within a field
        return False
    return False


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends. Raises IndexError where the message ends before."""
    number = shift = 0
    while True:
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
        if shift > 63:  # no parser takes more
            raise IndexError(at)
