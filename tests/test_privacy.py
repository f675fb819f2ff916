"""Masking: which addresses go, the compiled search against the definition, idempotence."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.privacy import Kind, mask_batch, mask_text

BOTH: tuple[Kind, ...] = ("email", "ip")


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("write to jane.doe@mail.uni-x.edu.", "write to email@example.com."),
        ("<a_b+c%d@x.org>", "<email@example.com>"),
        ("mailto:me@x.org?subject=1", "mailto:email@example.com?subject=1"),
        ("邮箱foo@bar.com欢迎", "邮箱email@example.com欢迎"),
        ("a@b.xn--p1ai", "email@example.com"),
        ("x@ab.co,y@cd.co", "email@example.com,email@example.com"),
        (
            "x@y.org9x@y.org x@y.org-x@z.org",
            "x@email@example.com email@example.com-email@example.com",
        ),
        ("nobody@example.org", "nobody@example.org"),
        ("nobody@mail.EXAMPLE.com", "nobody@mail.EXAMPLE.com"),
        ("root@box.localhost a@b.test", "root@box.localhost a@b.test"),
        ("me@notexample.com", "email@example.com"),
        ("@handle user@host a @ b.com @b.com", "@handle user@host a @ b.com @b.com"),
        ("from 8.8.8.8: ok", "from 192.0.2.1: ok"),
        ("(8.8.4.4), 1.1.1.1.", "(192.0.2.1), 192.0.2.1."),
        ("http://93.184.216.34:80/x", "http://192.0.2.1:80/x"),
        ("10.1.2.3 192.168.0.1 127.0.0.1 172.31.0.1", "10.1.2.3 192.168.0.1 127.0.0.1 172.31.0.1"),
        ("172.32.0.1", "192.0.2.1"),
        ("224.0.0.1 255.255.255.255 0.0.0.0", "224.0.0.1 255.255.255.255 0.0.0.0"),
        ("v1.2.3.4 1.2.3.4.5 1.2.3.4a 01.2.3.4", "v1.2.3.4 1.2.3.4.5 1.2.3.4a 01.2.3.4"),
        ("256.1.1.1 1.1.1.1000 1.2.3", "256.1.1.1 1.1.1.1000 1.2.3"),
        ("#section-4.2.1.6 8.8.8.8-8.8.4.4", "#section-4.2.1.6 192.0.2.1-192.0.2.1"),
        ("in the year 2262:: 2a00:1450::/32", "in the year 2262:: 2a00:1450::/32"),
        ("version 1.2.3.4", "version 192.0.2.1"),
        ("2001:4860:4860::8888", "2001:db8::1"),
        ("[2a00:1450:4001:81b::200e]:443", "[2001:db8::1]:443"),
        ("2a00:1450:4001:81b:0:0:0:200e/64", "2001:db8::1/64"),
        ("::1 fe80::1 fc00::2 2001:db8::7 ff02::1", "::1 fe80::1 fc00::2 2001:db8::7 ff02::1"),
        ("2001:0:53aa:64c::1 2001:2::1", "2001:db8::1 2001:2::1"),
        ("::ffff:8.8.8.8", "::ffff:192.0.2.1"),
        (
            "std::vector a::b 12:34:56 00:1a:2b:3c:4d:5e",
            "std::vector a::b 12:34:56 00:1a:2b:3c:4d:5e",
        ),
        ("8.8.8.8@x.org", "email@example.com"),
        ("me@8.8.8.8", "me@192.0.2.1"),
    ],
)
def test_what_is_masked(text: str, masked: str) -> None:
    assert mask_text(text, BOTH)[0] == masked
    assert mask_batch(pa.array([text]), BOTH)[0].to_pylist() == [masked]


def test_only_what_is_asked_for_is_masked() -> None:
    text = "me@x.org at 8.8.8.8 and 8.8.4.4"
    assert mask_text(text, ["email"]) == ("email@example.com at 8.8.8.8 and 8.8.4.4", 1)
    assert mask_text(text, ["ip"]) == ("me@x.org at 192.0.2.1 and 192.0.2.1", 2)
    assert mask_text(text, []) == (text, 0)


def test_a_batch_counts_by_text_and_keeps_its_order() -> None:
    texts = pa.array(["", "a@b.org c@d.org", "none", "8.8.8.8", "", "x", "e@f.org"])
    masked, counts = mask_batch(texts, BOTH)
    assert counts.tolist() == [0, 2, 0, 1, 0, 0, 1]
    assert masked.to_pylist() == [
        "", "email@example.com email@example.com", "none", "192.0.2.1", "", "x", "email@example.com"
    ]  # fmt: skip


def test_a_batch_without_addresses_comes_back_as_it_is() -> None:
    texts = pa.array(["nothing here", ""], pa.large_string())
    masked, counts = mask_batch(texts, BOTH)
    assert masked is texts
    assert not counts.any()
    masked, counts = mask_batch(pa.array([], pa.string()), BOTH)
    assert masked.type == pa.large_string()
    assert len(masked) == len(counts) == 0


parts = st.sampled_from(
    [
        "a", "Bc", "a-", "9", "12", "0", ".", "..", "@", "-", "+", "_", ":", "::", " ", "\n", "é",
        "中", "x@y.org", "com", ".org", "8.8.8.8", "10.0.0.1", "2001:4860::1", "2a00", "xn--", "/",
        ",", "example.com", "localhost", "%", "\u00a0", "a@example.com", "1.2.3.4",
    ]
)  # fmt: skip
messy = st.lists(parts, max_size=14).map("".join)
kinds = st.sampled_from([(), ("email",), ("ip",), BOTH])


@given(st.lists(messy, max_size=6), kinds, st.integers(0, 3))
def test_a_batch_is_masked_as_defined(
    texts: list[str], wanted: tuple[Kind, ...], skipped: int
) -> None:
    array = pa.array(["me@skipped.org"] * skipped + texts, pa.string())[skipped:]
    masked, counts = mask_batch(array, wanted)
    expected = [mask_text(text, wanted) for text in texts]
    assert list(zip(masked.to_pylist(), counts.tolist(), strict=True)) == expected
    masked.validate(full=True)


@given(messy, kinds)
def test_a_masked_text_is_masked_already(text: str, wanted: tuple[Kind, ...]) -> None:
    masked, _ = mask_text(text, wanted)
    assert mask_text(masked, wanted) == (masked, 0)
