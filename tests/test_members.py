"""Tar and zip archives: each file within is read as it would be unpacked, and none is lost."""

import bz2
import gzip
import io
import lzma
import random
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import orjson
import pytest
import zstandard

from benchmarks.fuzz import tar_of
from corpus import archives, tables
from corpus.archives import InputFile
from corpus.files import write_bytes
from corpus.formats import sniff_format
from corpus.members import META_KEY
from corpus.readers import read_records
from corpus.records import Damage, ReadOptions, Record

LIMIT = 2**20
FILES = {
    "a/one.txt": b"The first document.",
    "a/two.jsonl": b'{"text": "x", "id": 7, "more": 1}\n\n{"text": "y"}\n{broken\n',
    "b/three.csv.gz": gzip.compress(b"id,text\n1,m\n2,n\n"),
    "b/four.html": b"<html><p>page</p></html>",
    "five.txt.xz": lzma.compress(b"The fifth document."),
    "six": b'{"text": "told by its first bytes"}\n',
}
# What unpacking would give: position, text, and what is noted of the member.
EXPECTED = [
    (1, "The first document.", "a/one.txt"),
    (2, "x", "a/two.jsonl"),
    (3, "y", "a/two.jsonl"),
    (4, "a/two.jsonl:4: ", "invalid_json"),
    (5, "m", "b/three.csv.gz"),
    (6, "n", "b/three.csv.gz"),
    (7, "", "b/four.html"),
    (8, "The fifth document.", "five.txt.xz"),
    (9, "told by its first bytes", "six"),
]


def zipped(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


PACK: dict[str, Callable[[Mapping[str, bytes]], bytes]] = {"tar": tar_of, "zip": zipped}


def read(path: Path, data: bytes, options: ReadOptions | None = None) -> list[Record | Damage]:
    path.write_bytes(data)
    with closing(InputFile(str(path))) as file:
        form = sniff_format(str(path))
        return list(read_records(file, form, LIMIT, options or ReadOptions()))


def told(found: list[Record | Damage]) -> list[tuple[int, str, str]]:
    """Return position, text and member of records, position, place and rule of damage."""
    return [
        (each.position, each.text, orjson.loads(each.meta or "{}")[META_KEY])
        if isinstance(each, Record)
        else (each.position, each.detail, each.rule)
        for each in found
    ]


def check_expected(found: list[Record | Damage]) -> None:
    shown = told(found)
    assert shown[3][1].startswith(EXPECTED[3][1])
    shown[3] = (shown[3][0], EXPECTED[3][1], shown[3][2])
    assert shown == EXPECTED
    assert isinstance(found[1], Record)
    assert found[1].key == "7"
    assert orjson.loads(found[1].meta or "") == {META_KEY: "a/two.jsonl", "more": 1}
    assert isinstance(found[6], Record)
    assert (found[6].markup, found[6].page) == ("html", FILES["b/four.html"])


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.tar.zst", "a.tar.bz2", "a.xz", "a"])
def test_the_files_of_a_tar_are_read_as_if_unpacked(tmp_path: Path, name: str, form: int) -> None:
    packs: dict[str, Callable[[bytes], bytes]] = {
        "a.tgz": gzip.compress,
        "a.tar.zst": zstandard.compress,
        "a.tar.bz2": bz2.compress,
        "a.xz": lzma.compress,
    }
    check_expected(read(tmp_path / name, packs.get(name, bytes)(tar_of(FILES, form))))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("name", ["a.zip", "A.ZIP", "a.zip.gz"])
def test_the_files_of_a_zip_are_read_as_if_unpacked(tmp_path: Path, name: str, method: int) -> None:
    data = zipped(FILES, method)
    check_expected(read(tmp_path / name, gzip.compress(data) if name.endswith("gz") else data))


@pytest.mark.parametrize("kind", sorted(PACK))
def test_an_archive_in_a_bucket_is_read(kind: str) -> None:
    path = f"memory://members/a.{kind}"
    write_bytes(path, PACK[kind](FILES))
    with closing(InputFile(path)) as file:
        check_expected(list(read_records(file, sniff_format(path), LIMIT)))


@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_what_the_program_tar_writes_is_read(tmp_path: Path, form: str) -> None:
    """Names of 90 characters in V7, and beyond what a header holds in the others."""
    folder = tmp_path / "files"
    long = "d" * 60 + "/" + ("n" * 20 if form == "v7" else "é" * 40 + "n" * 15) + ".txt"
    for name in (long, "b/c.txt"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(name)
    (folder / "link.txt").symlink_to("b/c.txt")
    (folder / "again.txt").hardlink_to(folder / "b/c.txt")
    program = shutil.which("tar")
    if program is None:
        pytest.skip("there is no program tar")
    command = [program, f"--format={form}", "--sort=name", "-cf", f"{tmp_path}/a.tar"]
    subprocess.run([*command, "-C", str(folder), "."], check=True)
    found = read(tmp_path / "a.tar", (tmp_path / "a.tar").read_bytes())
    texts = {each.text for each in found if isinstance(each, Record)}
    assert texts == {long, "b/c.txt"}
    drops = [each for each in found if isinstance(each, Damage)]
    assert {each.rule for each in drops} == {"member_no_file"}
    assert len(drops) == 2  # the link, and of the two names of one file the later
    assert [each.position for each in found] == [1, 2, 3, 4]


@pytest.mark.parametrize("kind", sorted(PACK))
def test_what_is_no_document_is_a_drop_with_its_name(tmp_path: Path, kind: str) -> None:
    parquet = b"PAR1" + bytes(20)
    files = {"._a.txt": b"x", ".git/b.txt": b"x", "./c.txt": b"c", "d.png": b"\x89PNG"}
    deep = PACK["tar"]({"x.tar": tar_of({"y.tar": tar_of({"z.txt": b"z"}), "y.txt": b"y"})})
    files |= {"e.parquet": parquet, "f.zip": zipped({"g.txt": b"g"}), "h.tar": deep}
    shown = told(read(tmp_path / f"a.{kind}", PACK[kind](files)))
    why = "no format by its name and first bytes: `members` in the source can say one"
    unpack = "an archive in an archive in an archive: unpack it"
    assert shown == [
        (1, "._a.txt: hidden", "member_hidden"),
        (2, ".git/b.txt: hidden", "member_hidden"),
        (3, "c", "./c.txt"),
        (4, f"d.png: {why}", "member_unknown"),
        (5, "e.parquet: parquet in an archive: unpack it", "unread_member"),
        (6, "f.zip: zip in an archive: unpack it", "unread_member"),
        (7, f"h.tar: x.tar: {unpack}", "unread_member"),
    ]


def test_an_archive_of_compressed_archives_is_read(tmp_path: Path) -> None:
    """As OpenWebText comes: an archive of archives of texts, named .xz and nothing else."""
    parts = {
        f"openwebtext/urlsf_subset{n:02d}_data.xz": lzma.compress(
            tar_of({f"{n}-{m}.txt": b"text %d %d" % (n, m) for m in range(3)})
        )
        for n in range(2)
    }
    shown = told(read(tmp_path / "openwebtext.tar.xz", lzma.compress(tar_of(parts))))
    assert shown == [
        (
            3 * n + m + 1,
            f"text {n} {m}",
            f"openwebtext/urlsf_subset{n:02d}_data.xz/{n}-{m}.txt",
        )
        for n in range(2)
        for m in range(3)
    ]


@pytest.mark.parametrize("kind", sorted(PACK))
def test_a_recipe_may_say_what_the_members_are(tmp_path: Path, kind: str) -> None:
    files = {"a.txt": b"one\n\ntwo", "b": b"three"}
    if kind == "tar":
        files["c.tar"] = tar_of({"d": b"four\n\nfive"})
    found = read(tmp_path / f"a.{kind}", PACK[kind](files), ReadOptions(members="paragraphs"))
    expected = ["one", "two", "three", "four", "five"]
    assert [each.text for each in found if isinstance(each, Record)] == expected[: len(found)]
    assert len(found) == (5 if kind == "tar" else 3)


def test_a_broken_header_costs_its_own_file(tmp_path: Path) -> None:
    data = bytearray(tar_of({f"{n}.txt": b"text %d" % n for n in range(5)}, tarfile.USTAR_FORMAT))
    data[1024 * 2] ^= 1  # the name of the third
    shown = told(read(tmp_path / "a.tar", bytes(data)))
    assert [each[1] for each in shown[:2] + shown[3:]] == ["text 0", "text 1", "text 3", "text 4"]
    assert shown[2][2] == "invalid_record"
    assert shown[2][1].startswith("1024 bytes that are no member of an archive: ")
    assert [each[0] for each in shown] == [1, 2, 3, 4, 5]


def test_archives_one_after_another_are_one(tmp_path: Path) -> None:
    data = tar_of({"a.txt": b"a"}) + tar_of({"b.txt": b"b"})
    assert [each[1] for each in told(read(tmp_path / "a.tar", data))] == ["a", "b"]


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_tar_that_ends_within_a_file_says_so(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    whole = tar_of({"a.txt": b"a" * 600, "b.txt": b"b" * 600}, tarfile.USTAR_FORMAT)
    shown = told(read(tmp_path / "a.tar", pack(whole[: 3 * 512 + 700])))
    assert shown[0][1] == "a" * 600
    end = "b.txt: the archive ends within the file"
    assert shown[1:] == [(2, end, "corrupt_archive")]


@pytest.mark.parametrize("kind", sorted(PACK))
def test_a_broken_file_costs_itself(tmp_path: Path, kind: str) -> None:
    broken = bytearray(gzip.compress(orjson.dumps({"text": "x"}) + b"\n", mtime=0))
    broken[len(broken) // 2] ^= 64
    files = {"a.txt": b"a", "b.jsonl.gz": bytes(broken), "c.txt": b"c"}
    shown = told(read(tmp_path / f"a.{kind}", PACK[kind](files)))
    assert (shown[0][1], shown[-1][1]) == ("a", "c")
    assert shown[-2][2] == "corrupt_archive"
    assert shown[-2][1].startswith("b.jsonl.gz: ")


def test_a_zip_checks_its_files_and_itself(tmp_path: Path) -> None:
    whole = zipped({"a.txt": b"aaaa", "b.txt": b"bbbb"}, zipfile.ZIP_STORED)
    shown = told(read(tmp_path / "a.zip", whole.replace(b"aaaa", b"aaxa")))
    assert shown == [
        (1, "a.txt: Bad CRC-32 for file 'a.txt'", "corrupt_archive"),
        (2, "bbbb", "b.txt"),
    ]
    assert told(read(tmp_path / "a.zip", whole[:-30])) == [
        (1, "File is not a zip file", "corrupt_archive")
    ]


def test_an_encrypted_file_and_a_link_of_a_zip_are_drops(tmp_path: Path) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.mkdir("folder")
        link = zipfile.ZipInfo("link.txt")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "a.txt")
        archive.writestr("a.txt", "a")
    made = bytearray(data.getvalue())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        made[made.rindex(mark) + at] |= 1
    assert told(read(tmp_path / "a.zip", bytes(made))) == [
        (1, "link.txt: a link", "member_no_file"),
        (2, "a.txt: encrypted: unpack it", "unread_member"),
    ]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_what_a_zip_can_be_unpacked_from_without_a_bound_is_a_drop(
    tmp_path: Path, method: int
) -> None:
    found = read(tmp_path / "a.zip", zipped({"a.txt": bytes(2**26)}, method))
    assert told(found) == [(1, f"a.txt: compression {method}: unpack it", "unread_member")]


@pytest.mark.parametrize("name", ["b.parquet", ".hidden/b.txt", "b.zip"])
def test_a_tar_that_ends_within_a_file_nobody_reads_says_so(tmp_path: Path, name: str) -> None:
    whole = tar_of({"a.txt": b"a", name: bytes(300_000), "c.txt": b"c"}, tarfile.USTAR_FORMAT)
    told_of_all = told(read(tmp_path / "a.tar", whole))
    assert [each[1] for each in told_of_all[::2]] == ["a", "c"]
    for size in (3 * 512 + 270_000, 3 * 512 + 299_999):
        shown = told(read(tmp_path / "a.tar", whole[:size]))
        assert shown[:2] == told_of_all[:2]
        assert shown[2:] == [(3, "the archive ends within the file", "corrupt_archive")]
    # Padding may be missing.
    assert told(read(tmp_path / "a.tar", whole[: 3 * 512 + 300_000])) == told_of_all[:2]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_that_ends_within_headers_says_so(tmp_path: Path, form: int) -> None:
    whole = tar_of({"a.txt": b"a", f"{'n' * 300}.txt": b"b"}, form)
    assert [each[1] for each in told(read(tmp_path / "a.tar", whole))] == ["a", "b"]
    for size in (2 * 512 + 100, 3 * 512, 3 * 512 + 100, 4 * 512):
        _, (position, detail, rule) = told(read(tmp_path / "a.tar", whole[:size]))
        assert (position, rule) == (2, "invalid_record")
        assert detail.startswith(f"{size - 2 * 512} bytes that are no member of an archive: ")


def attributes(*records: bytes) -> bytes:
    """Return a header of pax attributes, before no member's."""
    head = tarfile.TarInfo("attributes")
    head.type, head.size = tarfile.XHDTYPE, sum(map(len, records))
    data = head.tobuf(tarfile.USTAR_FORMAT) + b"".join(records)
    return data + bytes(-len(data) % 512)


def test_attributes_of_a_tar_are_bounded_and_not_kept(tmp_path: Path) -> None:
    member = tar_of({"a.txt": b"a"}, tarfile.USTAR_FORMAT)
    some = attributes(*[b"10 k%03d=v\n" % n for n in range(1000)])
    assert told(read(tmp_path / "a.tar", some * 9 + member)) == [(1, "a", "a.txt")]
    much = attributes(b"4 =\n" * (2**18))
    (position, detail, rule), *others = told(read(tmp_path / "a.tar", much + some + member))
    assert (position, rule) == (1, "invalid_record")
    assert detail.endswith("more than 1048576 bytes of attributes")
    assert others == [(2, "a", "a.txt")]


def test_a_name_beyond_all_names_is_cut(tmp_path: Path) -> None:
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        files = {"n" * 4000 + ".txt": b"a", "n" * 5000 + ".txt": b"b", "c.txt": b"c"}
        taken, refused, last = told(read(tmp_path / "a.tar", tar_of(files, form)))
        assert taken == (1, "a", "n" * 4000 + ".txt")
        assert refused[2] == "unread_member"
        assert len(refused[1]) < 200
        assert last == (3, "c", "c.txt")


@pytest.mark.parametrize("kind", sorted(PACK))
def test_a_field_of_a_record_with_the_name_of_ours_is_kept(tmp_path: Path, kind: str) -> None:
    files = {"a.jsonl": b'{"text": "a", "archive_member": "mine"}\n'}
    (found,) = read(tmp_path / f"a.{kind}", PACK[kind](files))
    assert isinstance(found, Record)
    assert orjson.loads(found.meta or "") == {META_KEY: "a.jsonl", f"{META_KEY}.1": "mine"}


def test_a_bomb_of_an_archive_is_not_told_of_the_file_within(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "BOMB_BYTES", 2**20)
    files = {"a.txt": b"a", "b.txt": bytes(2**23), "c.txt": b"c"}
    first, last = told(read(tmp_path / "a.tar.gz", gzip.compress(tar_of(files))))
    assert first == (1, "a", "a.txt")
    assert last == (2, "times its compressed size", "decompression_bomb")


@pytest.mark.parametrize("kind", sorted(PACK))
def test_a_file_that_is_a_bomb_costs_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(archives, "BOMB_BYTES", 2**18)
    noise = zstandard.compress(bytes(range(256)) * 8)
    files = {"a.txt": b"a", "b.txt.gz": gzip.compress(bytes(2**20)), "c.txt.zst": noise}
    # What is not repetitive keeps the archive as a whole from being one.
    files["d.png"] = bytes(orjson.dumps([n * n for n in range(9999)]))
    found = read(tmp_path / f"a.{kind}", PACK[kind](files))
    rules = [getattr(each, "rule", "record") for each in found]
    assert rules == ["record", "decompression_bomb", "invalid_utf8", "member_unknown"]
    assert isinstance(found[1], Damage)
    assert found[1].detail == "b.txt.gz: times its compressed size"


@pytest.mark.parametrize("kind", sorted(PACK))
def test_bombs_in_a_bomb_end_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """No file alone is one, as it is packed in the archive; all of them are."""
    monkeypatch.setattr(archives, "BOMB_BYTES", 2**22)
    page = gzip.compress(random.Random(0).randbytes(1100) + bytes(2**20), mtime=0)
    alone, data = (PACK[kind]({f"{n}.txt.gz": page for n in range(count)}) for count in (1, 99))
    pack = bytes if kind == "zip" else lzma.compress
    assert len(read(tmp_path / f"a.{kind}", pack(alone))) == 1
    found = read(tmp_path / f"b.{kind}", pack(data))
    assert [getattr(each, "rule", "") for each in found[-2:]] == [
        "record_too_long",
        "decompression_bomb",
    ]
    assert 2 < len(found) < 99


class Failing(io.BytesIO):
    """Fails beyond the first reads."""

    left = 3

    def read(self, size: int | None = -1) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise OSError("the disk fails")
        return super().read(size)


@pytest.mark.parametrize("kind", sorted(PACK))
def test_a_failing_disk_is_no_property_of_an_archive(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    content = random.Random(0).randbytes(2**21)
    for name, data in (("a.txt", content), ("a.txt.gz", gzip.compress(content))):
        packed = PACK[kind]({name: data})
        for where in (archives, tables):
            monkeypatch.setattr(where, "open_reader", lambda _, packed=packed: Failing(packed))
        with pytest.raises(OSError, match="the disk fails"):
            list(read_records(InputFile(f"a.{kind}"), kind, LIMIT))
