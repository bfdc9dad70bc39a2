"""The core's packed state by field, and back: what saved machines hold of it.

Names are those of state.pxd. Whether harts can be in such a state is not said here: a core refuses what they can't.
"""
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memset

from state cimport PMP_ENTRIES, clock_state_t, hart_state_t


def state_fields(bytes state) -> list:
    """Return a core's packed state by field: the clock's, then each hart's. ValueError where it is none."""
    cdef const uint8_t* at = state
    cdef uint64_t left = len(state)
    cdef dict fields
    cdef int i
    if left < sizeof(clock_state_t) or (left - sizeof(clock_state_t)) % sizeof(hart_state_t):
        raise ValueError(f"core state has {len(state)} bytes; allowed: {sizeof(clock_state_t)} and a multiple of "
                         f"{sizeof(hart_state_t)}")
    found = [(<const clock_state_t*>at)[0]]
    at += sizeof(clock_state_t)
    left -= sizeof(clock_state_t)
    while left:
        fields = (<const hart_state_t*>at)[0]
        # An array of bytes would come as text, up to the first zero.
        fields["pmpcfg"] = [(<const hart_state_t*>at).pmpcfg[i] for i in range(PMP_ENTRIES)]
        found.append(fields)
        at += sizeof(hart_state_t)
        left -= sizeof(hart_state_t)
    return found


def state_packed(list fields) -> bytes:
    """Return what `state_fields` was given. ValueError says which field of which part can't be."""
    cdef clock_state_t clock
    cdef hart_state_t hart
    if not fields:
        raise ValueError("core state has no fields of the clock")
    memset(&clock, 0, sizeof(clock))
    memset(&hart, 0, sizeof(hart))
    parts = []
    for i in range(len(fields)):
        part = fields[i]
        names = state_fields(bytes(sizeof(clock_state_t) + sizeof(hart_state_t)))[1 if i else 0]
        if not isinstance(part, dict) or set(part) != set(names):
            raise ValueError(f"core state: part {i} is {part!r:.60}; expected the fields {', '.join(names)}")
        try:
            for name in names:      # one by one, so that the error can say which
                names[name] = part[name]
                if i == 0:
                    clock = names
                elif isinstance(part[name], (int, list)):
                    hart = names
                else:
                    raise TypeError("expected an int or a list of them")
        except (TypeError, ValueError, OverflowError, IndexError) as error:
            raise ValueError(f"core state: part {i}, field {name} is {part[name]!r:.60}: {error}") from error
        parts.append((<const uint8_t*>&hart)[:sizeof(hart)] if i else (<const uint8_t*>&clock)[:sizeof(clock)])
    return b"".join(parts)
