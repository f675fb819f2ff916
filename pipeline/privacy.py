"""Masks mail addresses and public IP addresses: what names a person goes, what names nobody stays.

A mail address becomes `email@example.com`, an IPv4 address `192.0.2.1`, an IPv6 address
`2001:db8::1`: each reserved for documentation (RFC 2606, 5737, 3849), so a masked text is masked
already. Addresses at reserved domains (RFC 2606: example.com, .test ...) stay, and so do IP
addresses that are not of the public internet (private, loopback, link-local, documentation,
multicast ...; the IANA registries of special-purpose addresses, as a table here, because Python's
own changes between its releases).

A mail address is ASCII: up to 64 of `A-Za-z0-9._%+-` (RFC 5321's limit), `@`, a domain that ends
in letters. An IPv4 address is four decimal numbers up to 255 without leading zeros; IPv6 is what
Python's `ipaddress` reads as such and, other than a network, does not end in a colon. None of them
has a letter or digit beside it, nor behind a dot; an IPv4 address none before a dot, and no letter
before a hyphen. So `v1.2.3.4`, `section-1.2.3.4` and `1.2.3.4.5` stay, but a version or section
number that is a bare `1.2.3.4` cannot be told from an address and is masked (20 times in 703 PEPs).
Not found: addresses with letters beyond ASCII, spelt-out ones ("at", "dot"), IP addresses in other
notations.

No pattern reaches over white space, so a compiled loop finds the few words worth a look by `@`,
three dots between digits, `::` or seven colons, and only those are given to `mask_text`, the
readable definition: some 450 MB/s of prose on one core (2026-11, `benchmarks/lists.py`).
"""

import re
from collections.abc import Collection
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal

import numba
import numpy as np
import pyarrow as pa

from pipeline.kernels import Int64s, UInt8s
from pipeline.spans import bytes_of, replace_spans

# Raised by hand when other text is masked, or otherwise.
VERSION = 1

Kind = Literal["email", "ip"]

EMAIL, IPV4, IPV6 = "email@example.com", "192.0.2.1", "2001:db8::1"

# What touches an address is part of it or no letter or digit, so that two masked ones never join.
_EMAIL = re.compile(
    r"(?<![A-Za-z0-9])[A-Za-z0-9_][A-Za-z0-9._%+-]{0,63}@"
    r"((?:[A-Za-z0-9-]+\.)+(?:xn--[A-Za-z0-9-]+|[A-Za-z]{2,}))(?!\.?[A-Za-z0-9])"
)
_IP = re.compile(
    r"(?<!\w)(?<!\w\.)(?<![A-Za-z]-)(?P<four>(?:\d{1,3}\.){3}\d{1,3})(?!\.?\w)"
    r"|(?<![\w:.])(?P<six>(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{1,4})(?![\w:]|\.\w)",
    re.ASCII,
)
# RFC 2606, sections 2 and 3.
_RESERVED_DOMAINS = re.compile(
    r"(?:.*\.)?(?:example\.(?:com|net|org)|test|example|invalid|localhost)", re.IGNORECASE
)
# IANA IPv4 Special-Purpose Address Registry (RFC 6890) where not globally reachable; multicast.
_SPECIAL_IPV4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
        ),
    )
)
# The block that global unicast addresses are allotted from (IANA), and what of it is nobody's: IETF
# protocols but for Teredo (which holds a client's address), and documentation (RFC 3849, 9637).
_GLOBAL_IPV6 = IPv6Network("2000::/3")
_TEREDO = IPv6Network("2001::/32")
_SPECIAL_IPV6 = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "3fff::/20")))

# What a byte may start: nothing, a mail address (at its sign), an IP address (at a dot or colon).
_MAIL_SIGN, _IP_SIGN = 1, 2


def mask_text(text: str, kinds: Collection[Kind]) -> tuple[str, int]:
    """Return the text without the addresses of these kinds, and how many were replaced."""
    count = 0

    def mask_email(found: re.Match[str]) -> str:
        nonlocal count
        if _RESERVED_DOMAINS.fullmatch(found[1]):
            return found[0]
        count += 1
        return EMAIL

    def mask_ip(found: re.Match[str]) -> str:
        nonlocal count
        public = _is_public_ipv4 if found["four"] else _is_public_ipv6
        if not public(found[0]):
            return found[0]
        count += 1
        return IPV4 if found["four"] else IPV6

    if "email" in kinds:
        text = _EMAIL.sub(mask_email, text)
    if "ip" in kinds:
        text = _IP.sub(mask_ip, text)
    return text, count


def _is_public_ipv4(text: str) -> bool:
    try:
        address = IPv4Address(text)
    except AddressValueError:
        return False
    return not any(address in network for network in _SPECIAL_IPV4)


def _is_public_ipv6(text: str) -> bool:
    try:
        address = IPv6Address(text)
    except AddressValueError:
        return False
    special = any(address in network for network in _SPECIAL_IPV6) and address not in _TEREDO
    return address in _GLOBAL_IPV6 and not special


def mask_batch(texts: pa.Array, kinds: Collection[Kind]) -> tuple[pa.LargeStringArray, Int64s]:
    """Return the texts as `mask_text` leaves each, and how many addresses it replaced: [texts]."""
    counts = np.zeros(len(texts), np.int64)
    data, ends = bytes_of(texts)
    replaced: list[bytes] = []
    spans: list[tuple[int, int]] = []
    for start, stop in zip(*_find_words(data, ends, _signs(kinds)), strict=True):
        masked, count = mask_text(data[start:stop].tobytes().decode(), kinds)
        if count:
            counts[np.searchsorted(ends, start, "right") - 1] += count
            spans.append((start, stop))
            replaced.append(masked.encode())
    starts, stops = np.array(spans, np.int64).reshape(-1, 2).T
    return replace_spans(texts, starts, stops, replaced), counts


def _signs(kinds: Collection[Kind]) -> UInt8s:
    signs = np.zeros(256, np.uint8)
    if "email" in kinds:
        signs[ord("@")] = _MAIL_SIGN
    if "ip" in kinds:
        signs[[ord("."), ord(":")]] = _IP_SIGN
    return signs


@numba.njit(cache=True)
def _is_digit(byte: int) -> bool:
    return 48 <= byte <= 57


@numba.njit(cache=True)
def _may_hold_ip(data: UInt8s, start: int, stop: int) -> bool:
    """Tell whether there are three dots between digits, two colons in a row or seven of them."""
    dots, colons = 0, 0
    for i in range(start, stop):
        if data[i] == 46 and start < i < stop - 1:
            dots += _is_digit(data[i - 1]) and _is_digit(data[i + 1])
        elif data[i] == 58:
            colons += 1
            if i > start and data[i - 1] == 58:
                return True
    return dots >= 3 or colons >= 7


@numba.njit(cache=True)
def _find_words(data: UInt8s, ends: Int64s, signs: UInt8s) -> tuple[list[int], list[int]]:
    """Return where words (between ASCII white space) begin and end that may hold an address."""
    starts, stops = [0 for _ in range(0)], [0 for _ in range(0)]  # so numba knows the type
    for t in range(len(ends) - 1):
        i, low, high = ends[t], ends[t], ends[t + 1]
        while i < high:
            sign = signs[data[i]]
            # A dot or colon at a word's end, the usual one in prose, tells nothing.
            if sign == 0 or i == low or i + 1 == high or data[i + 1] <= 32:
                i += 1
                continue
            if data[i] == 46 and not (_is_digit(data[i - 1]) and _is_digit(data[i + 1])):
                i += 1
                continue
            start, stop = i, i + 1
            while start > low and data[start - 1] > 32:
                start -= 1
            while stop < high and data[stop] > 32:
                stop += 1
            mail = False
            for j in range(i, stop):
                mail = mail or signs[data[j]] == 1
            if mail or (signs[46] and _may_hold_ip(data, start, stop)):
                starts.append(start)
                stops.append(stop)
            low = i = stop
    return starts, stops
