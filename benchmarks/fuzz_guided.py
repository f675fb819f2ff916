"""Inputs for the readers that atheris chooses by the code they reach (libFuzzer, coverage-guided).

    python -m benchmarks.fuzz_guided [-runs=N] [-seed=S] [other options of libFuzzer]

It starts from the valid files of benchmarks/fuzz.py and checks what that does: no crash, an end
within 30 CPU seconds, rising positions. The first byte of an input chooses the suffix and whether
the rest is compressed before it is read, the second the format. Exit status 77 after a crash, whose
input libFuzzer writes beside.
"""

import signal
import sys
import tempfile
from pathlib import Path

import atheris

# Not `pipeline`, whose loops numba could not compile then.
with atheris.instrument_imports(include=["corpus"]):
    from benchmarks import fuzz

_SUFFIXES = list(fuzz.CODECS)
# What is watched takes four times as long or more: a bomb of 16 MiB of empty lines, which is the
# slowest input that was found, ends after 1.6 CPU seconds as it is and after over 5 here.
_HANG_SECONDS = 30
_FORMS = sorted({form.split("-")[0] for form in fuzz.seeds()})


def check_one(data: bytes) -> None:
    """Read one input."""
    if len(data) < 3:
        return
    suffix = _SUFFIXES[data[0] % len(_SUFFIXES)]
    is_inside = data[0] // len(_SUFFIXES) % 2
    content = fuzz.CODECS[suffix](data[2:]) if is_inside else data[2:]
    fuzz.check(f"x{suffix}", _FORMS[data[1] % len(_FORMS)], content)


def write_seeds(directory: Path) -> None:
    """Write every valid file, for all suffixes: plain, to be compressed, and compressed."""
    for form, content in fuzz.seeds().items():
        kind = _FORMS.index(form.split("-")[0])
        for number, (suffix, pack) in enumerate(fuzz.CODECS.items()):
            inside = bytes((number + len(_SUFFIXES), kind)) + content
            outside = bytes((number, kind)) + pack(content)
            (directory / f"{form}{suffix}-inside").write_bytes(inside)
            (directory / f"{form}{suffix}-outside").write_bytes(outside)


def main() -> None:
    """Fuzz until libFuzzer's options say enough; it ends the process."""
    fuzz.prepare()
    fuzz.HANG_SECONDS = _HANG_SECONDS
    # An alarm that is none of ours ends the process while a crash is written down.
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    with tempfile.TemporaryDirectory() as directory:
        write_seeds(Path(directory))
        # The time limit is check's own, which names the input as libFuzzer's cannot. Here a day: to
        # atheris 0 is no time at all, and a busy machine may hold an input up.
        options = ["-timeout=86400", "-rss_limit_mb=4096", *sys.argv[1:]]
        atheris.Setup([sys.argv[0], *options, directory], check_one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
