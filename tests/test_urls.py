"""Blocked URLs: how entries and URLs are read, what an entry covers, bad lines."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.rules import Failure
from pipeline.urls import Url, UrlBlockList, split

LIST = b"""# adult
bad.org
.xxx
*.wild.net   # and below
example.com/bad/
https://user@Shop.example.com:8443/Deals?id=3#top
0.0.0.0 tracker.io localhost ads.tracker.co.uk
::1 six.example.org
10.0.0.7
b\xc3\xbccher.de

"""
BLOCKED = UrlBlockList.build([("lists/a.txt", LIST)])


def entry_of(url: str) -> str | None:
    failure = BLOCKED.find(url)
    if failure is None:
        return None
    assert failure[:3] == ("url_blocked", 1, 1)
    entry, name = str(failure.detail).split(" on ")
    assert name == "lists/a.txt"
    return entry


@pytest.mark.parametrize(
    ("url", "entry"),
    [
        ("http://bad.org", "bad.org"),
        ("https://www.BAD.org.:443/x?y#z", "bad.org"),
        ("//bad.org/", "bad.org"),
        ("bad.org/x", "bad.org"),
        ("http://me:pass@bad.org/", "bad.org"),
        ("http://b%61d.org/", "bad.org"),
        ("http://notbad.org/", None),
        ("http://bad.org.uk/", None),
        ("http://fine.net/?to=http://bad.org/", None),
        ("http://fine.net@bad.org/", "bad.org"),
        ("http://any.thing.xxx/", "xxx"),
        ("http://wild.net/", "wild.net"),
        ("http://example.com/", None),
        ("http://example.com/bad", "example.com/bad"),
        ("http://m.example.com/b%61d/page", "example.com/bad"),
        ("http://example.com/bad?page=2", "example.com/bad"),
        ("http://example.com/bad#top", "example.com/bad"),
        ("http://example.com/badger", None),
        ("http://example.com/Bad", None),
        ("http://example.com/good/bad", None),
        ("http://shop.example.com/Deals?id=3", "shop.example.com/Deals?id=3"),
        ("http://shop.example.com/Deals?id=3&page=2", "shop.example.com/Deals?id=3"),
        ("http://shop.example.com/Deals?id=33", None),
        ("http://tracker.io/", "tracker.io"),
        ("http://x.ads.tracker.co.uk/", "ads.tracker.co.uk"),
        ("http://tracker.co.uk/", None),
        ("http://localhost/", None),
        ("http://six.example.org/", "six.example.org"),
        ("http://10.0.0.7:80/", "10.0.0.7"),
        ("http://1.10.0.0.7/", None),
        ("http://www.bücher.de/a", "xn--bcher-kva.de"),
        ("http://XN--BCHER-kva.de/a", "xn--bcher-kva.de"),
        ("http://b%C3%BCcher.de/a", "xn--bcher-kva.de"),
        ("", None),
        ("http://", None),
        ("data:text/html,bad.org", None),
        ("http://..bad..org../", None),
    ],
)
def test_what_an_entry_covers(url: str, entry: str | None) -> None:
    assert entry_of(url) == entry


def test_a_url_is_compared_in_one_form() -> None:
    assert split(" HTTP://u:p@Ex.org.:80/A%7eb%2fc d\u00e9?x=%C3%A9#f ") == Url(
        "ex.org", "/A~b%2Fc%20d%C3%A9?x=%C3%A9"
    )
    assert split("http://ex.org?x=/") == Url("ex.org", "/?x=")
    assert split("http://[2001:DB8::1]:80/a") == Url("[2001:db8::1]", "/a")
    assert split(f"http://{'a' * 80}.org/") == Url(f"{'a' * 80}.org", "")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"two words", "line 2: 'two words' is more than one"),
        (b"com", "line 2: 'com' is neither"),
        (b"||ads.com^", "line 2: .* is neither a domain nor a URL prefix"),
        (b"0.0.0.0 b@d!.com", "line 2: .* is neither"),
        (b"http://", "line 2: .* is neither"),
        (b"bad\xff.org", "line 2: not UTF-8"),
    ],
)
def test_a_bad_line_is_named(line: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=f"hosts.txt, {message}"):
        UrlBlockList.build([("hosts.txt", b"good.org\n" + line + b"\n")])


def test_the_first_list_owns_an_entry() -> None:
    one, two = ("one", b"a.org\nb.org/x"), ("two", b"b.org/x\nc.org")
    both = UrlBlockList.build([one, two])
    found = both.find_all(["http://a.org", None, "http://b.org/x", "http://c.org", "http://d.org"])
    details = [each and each.detail for each in found]
    assert details == ["a.org on one", None, "b.org/x on one", "c.org on two", None]


def test_the_widest_entry_of_the_nearest_host_is_named() -> None:
    blocked = UrlBlockList.build([("l", b"a.org\nb.a.org/x\nb.a.org/x/y")])
    assert blocked.find("http://b.a.org/x/y/z") == Failure("url_blocked", 1, 1, "b.a.org/x on l")
    assert blocked.find("http://c.b.a.org/q") == Failure("url_blocked", 1, 1, "a.org on l")


def test_a_list_is_known_by_its_entries() -> None:
    plain = UrlBlockList.build([("l", b"a.org\nb.org\n")])
    other = UrlBlockList.build([("l", b"# new\nB.org.\nb.org\n\na.org # x")])
    assert plain.fingerprint == other.fingerprint
    assert plain.fingerprint != UrlBlockList.build([("l", b"a.org\n")]).fingerprint
    assert plain.fingerprint != UrlBlockList.build([("m", b"a.org\nb.org\n")]).fingerprint
    assert len(plain.fingerprint) == 64


def test_a_list_is_read_back() -> None:
    read = UrlBlockList.parse(BLOCKED.to_bytes())
    assert read == BLOCKED
    assert read.find("http://bad.org/") == BLOCKED.find("http://bad.org/")
    empty = UrlBlockList.build([("l", b"# nothing\n")])
    assert UrlBlockList.parse(empty.to_bytes()).find("http://bad.org/") is None


def test_a_damaged_list_is_refused() -> None:
    with pytest.raises(ValueError, match="no list of blocked URLs"):
        UrlBlockList.parse(b"bad.org\n")
    with pytest.raises(ValueError, match="cut off"):
        UrlBlockList.parse(BLOCKED.to_bytes()[:-1])


def test_lists_may_be_compressed() -> None:
    packed = UrlBlockList.build([("l.gz", gzip.compress(b"a.org\n"))])
    assert packed.find("http://a.org/x") == Failure("url_blocked", 1, 1, "a.org on l.gz")
    with pytest.raises(ValueError, match=r"l.gz cannot be decompressed"):
        UrlBlockList.build([("l.gz", b"a.org\n")])


labels = st.text("ab-", min_size=1, max_size=3)
names = st.lists(labels, min_size=2, max_size=4).map(".".join)
paths = st.lists(labels, max_size=3).map(lambda parts: "".join(f"/{part}" for part in parts))
entries = st.tuples(names, paths).map("".join)


@given(st.lists(entries, max_size=8), st.lists(st.tuples(names, paths), max_size=8))
def test_the_search_finds_what_comparing_all_finds(
    listed: list[str], urls: list[tuple[str, str]]
) -> None:
    blocked = UrlBlockList.build([("l", "\n".join(listed).encode())])
    found = blocked.find_all([f"http://{host}{path}" for host, path in urls])
    for (host, path), failure in zip(urls, found, strict=True):
        covering = [each for each in listed if covers(each, host, path)]
        assert (failure is not None) == bool(covering)
        assert failure is None or str(failure.detail).removesuffix(" on l") in covering


def covers(entry: str, host: str, path: str) -> bool:
    name, _, rest = entry.partition("/")
    same_host = host == name or host.endswith("." + name)
    return same_host and (not rest or f"{path}/".startswith(f"/{rest}/"))
