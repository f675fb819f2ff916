"""Schedule: a refresh every so often, as a crontab line and as a KubeRay manifest.

Open-source Ray has no scheduler of its own, so the time comes from cron or from KubeRay's
RayCronJob; this module writes what either takes, it installs nothing.

Each firing needs a label of its own: a complete label refuses other inputs, so that with one label
a day the second firing of a day would fail. The label is therefore the minute of the firing, in UTC
so that no hour comes twice: 2026-11-23t0317. A firing with nothing new makes no snapshot, and one
that comes while another is at work ends at the store's lease (RayCronJob knows no other guard). A
firing that was killed is not taken up by the next one, whose label is another: run its label again.

Nothing may depend on the working directory, which is another under cron, so relative paths in the
recipe are refused, and so are rules of a module that Python does not find from there. `python -m
pipeline` itself is found from where this code lies. Only expressions that cron and KubeRay
(robfig/cron, `ParseStandard`) understand alike are let through: no `@weekly`, no 7 for Sunday, no
step without a range. Dates that never come, such as 31 February, are refused because KubeRay would
fire at once, again and again.

The fields are those of KubeRay 1.6 and later (ray.io/v1, CRD raycronjobs, read at ray-project/
kuberay feeaf72); RayCronJob is alpha there and needs `--feature-gates=RayCronJob=true`. HTTPMode is
chosen because the entrypoint then goes through one shell only, and arrives as it is written.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import yaml

from corpus.files import is_remote
from corpus.recipe import Clean, Recipe, load_recipe
from pipeline.rules import check_thresholds

# What `date -u` makes a label from; it matches corpus.recipe.LABEL_PATTERN.
LABEL_FORMAT = "%Y-%m-%dt%H%M"

_ROOT = Path(__file__).parents[1]
_ASK_FOR_MODULE = (
    "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"
)
_MAX_NAME_CHARACTERS = 36  # KubeRay's MaxRayCronJobNameLength
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTH_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


class _Field(NamedTuple):
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of week", 0, 6, _WEEKDAYS),
)


def schedule(recipe_path: str, cron: str) -> Iterator[str]:
    """Give the lines of a crontab entry and of a RayCronJob that refresh by this recipe."""
    expression = " ".join(cron.split())
    parse_cron(expression)
    path = recipe_path if is_remote(recipe_path) else str(Path(recipe_path).absolute())
    recipe = load_recipe(path)
    check_thresholds(recipe.clean)
    _check_absolute(recipe, path)
    _check_found(recipe.clean.user_rules, path)
    claims = _claims(recipe)
    for text in (path, sys.executable, str(_ROOT), *(folder for _, folder in claims)):
        _check_printable(text)
    return iter(
        [
            "# crontab, in this machine's time zone; RAY_ADDRESS set there leads to a cluster",
            f"{expression} {_crontab_command(path)}",
            "# KubeRay RayCronJob, in the operator's time zone. Yours to set: image (with maskline",
            f"# in it), sizes, and what the claims hold. The job reads the recipe from {path}",
            *(f"# claim {claim}: {folder} as it is here" for claim, folder in claims),
            *_dump(_manifest(recipe, path, expression)),
        ]
    )


def parse_cron(cron: str) -> tuple[frozenset[int], ...]:
    """Return the values of the five fields; `ValueError` names the field that is wrong."""
    texts = cron.split()
    if len(texts) != len(_FIELDS):
        wanted = ", ".join(field.name for field in _FIELDS)
        raise ValueError(
            f"cron expression {cron!r} has {len(texts)} fields, expected 5 ({wanted}), "
            "as in '17 3 * * 1'"
        )
    parsed = tuple(_parse_field(field, text) for field, text in zip(_FIELDS, texts, strict=True))
    _, _, days, months, _ = parsed
    if texts[4].startswith("*") and all(min(days) > _MONTH_DAYS[month - 1] for month in months):
        raise ValueError(
            f"cron expression {cron!r} never fires: day of month {texts[2]} does not occur in "
            f"month {texts[3]}"
        )
    return parsed


def _parse_field(field: _Field, text: str) -> frozenset[int]:
    values: set[int] = set()
    for item in text.split(","):
        try:
            values.update(_parse_item(field, item))
        except ValueError as error:
            raise ValueError(f"cron field {field.name} is {text!r}: {error}") from None
    return frozenset(values)


def _parse_item(field: _Field, item: str) -> range:
    """Parse `*`, `a` or `a-b`, the first and the last also with `/step`."""
    base, slash, step = item.partition("/")
    first, dash, last = base.partition("-")
    if base == "*":
        low, high = field.low, field.high
    else:
        low = _parse_value(field, first)
        high = _parse_value(field, last) if dash else low
    if low > high:
        raise ValueError(f"the range {base} runs backwards")
    if not slash:
        return range(low, high + 1)
    if base != "*" and not dash:
        raise ValueError(f"the step in {item} needs a range or * before it")
    if not _is_number(step) or not 1 <= int(step) <= field.high:
        raise ValueError(f"the step {step!r} is not a number from 1 to {field.high}")
    return range(low, high + 1, int(step))


def _parse_value(field: _Field, text: str) -> int:
    if text.lower() in field.names:
        return field.low + field.names.index(text.lower())
    if not _is_number(text) or not field.low <= int(text) <= field.high:
        names = f" or {field.names[0]}-{field.names[-1]}" if field.names else ""
        raise ValueError(f"{text!r} is not in {field.low}-{field.high}{names}")
    return int(text)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,2}", text) is not None


def _named(recipe: Recipe) -> list[tuple[str, str]]:
    """Return the paths and URLs that a recipe names, each with its key, the store first."""
    named = [("store", recipe.store)]
    named += [
        (f"sources.{source.name}", each) for source in recipe.sources for each in source.paths
    ]
    if recipe.tokenizer.path is not None:
        named.append(("tokenizer.path", recipe.tokenizer.path))
    return named + _lists_of(recipe.clean)


def _claims(recipe: Recipe) -> list[tuple[str, str]]:
    """Name a volume claim for each directory that holds what a recipe names on disks.

    Store /a/store, raw files /a/raw and /b/*.txt -> maskline: /a, maskline-2: /b
    """
    paths = [value for _, value in _named(recipe) if not is_remote(value)]
    folders = dict.fromkeys(map(_folder_of, paths))
    outer = [each for each in folders if folders.keys().isdisjoint(each.parents)]
    names = ("maskline" if n == 1 else f"maskline-{n}" for n in range(1, len(outer) + 1))
    return list(zip(names, map(str, outer), strict=True))


def _folder_of(path: str) -> Path:
    """Return the directory to mount for a path or glob; of one at the root the path itself."""
    fixed = re.split(r"[*?[]", path)[0]
    found = Path(os.path.normpath(path if fixed == path else f"{fixed}*"))
    if found.parent != Path("/"):
        return found.parent
    if fixed != path or found.suffix:
        raise ValueError(f"{path} lies at the root, where no volume can be: give it a directory")
    return found


def _check_absolute(recipe: Recipe, path: str) -> None:
    """Refuse what would mean something else in another working directory."""
    for key, value in _named(recipe):
        if not is_remote(value) and not Path(value).is_absolute():
            raise ValueError(
                f"{path}: {key} is the relative path {value!r}, and a scheduled job has another "
                "working directory: write an absolute path or a URL"
            )


def _lists_of(clean: Clean) -> list[tuple[str, str]]:
    """Return the files of lists that a recipe names, each with its key."""
    keys = ("url_blocklists", "decontaminate", "c4_bad_words")
    named = [(f"clean.{key}", each) for key in keys for each in getattr(clean, key)]
    if clean.boilerplate is not None:
        named.append(("clean.boilerplate", clean.boilerplate))
    # A manifest's recipe names lists by their fingerprints, which lie in the store.
    return [(key, each) for key, each in named if not each.startswith("sha256-")]


def _check_found(specs: Sequence[str], path: str) -> None:
    """Refuse rules whose module the crontab line would not find.

    A process asks as the line's would: what is on the import path here may be there by this
    directory or this shell's PYTHONPATH, which cron does not know.
    """
    for spec in specs:
        module = spec.partition(":")[0]
        command = [sys.executable, "-c", _ASK_FOR_MODULE, module]
        asked = subprocess.run(command, cwd=_ROOT, env={}, check=False, capture_output=True)
        if asked.returncode:
            raise ValueError(
                f"{path}: clean.user_rules names {spec}, and a scheduled job, which runs in "
                f"{_ROOT}, finds no module {module}: install it for {sys.executable}"
            )


def _check_printable(text: str) -> None:
    if not text.isprintable():
        raise ValueError(f"the path {text!r} cannot stand in a crontab, whose entry is one line")


def _crontab_command(path: str) -> str:
    """Return the command for cron, which makes a line break of every bare %."""
    python = shlex.quote(sys.executable)
    command = f"cd {shlex.quote(str(_ROOT))} && {_refresh_command(python, path)}"
    return command.replace("%", r"\%")


def _refresh_command(python: str, path: str) -> str:
    label = f"$(date -u +{LABEL_FORMAT})"
    return f"{python} -m pipeline refresh {shlex.quote(path)} snapshot={label}"


def _manifest(recipe: Recipe, path: str, cron: str) -> dict[str, Any]:
    cluster = {
        "rayVersion": version("ray"),  # token authentication needs it to be stated
        "authOptions": {"mode": "token"},
        "headGroupSpec": {"rayStartParams": {}, "template": _pod("ray-head", recipe, ("2", "8Gi"))},
        "workerGroupSpecs": [
            {
                "groupName": "workers",
                "replicas": 3,
                "minReplicas": 3,
                "maxReplicas": 3,
                "rayStartParams": {},
                "template": _pod("ray-worker", recipe, ("8", "32Gi")),
            }
        ],
    }
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCronJob",
        "metadata": {"name": _manifest_name(path)},
        "spec": {
            "schedule": cron,
            "jobTemplate": {
                "submissionMode": "HTTPMode",
                "entrypoint": _refresh_command("python", path),
                "backoffLimit": 0,  # a second try would come under another label
                "shutdownAfterJobFinishes": True,
                "ttlSecondsAfterFinished": 600,
                "rayClusterSpec": cluster,
            },
        },
    }


def _manifest_name(path: str) -> str:
    """Make a name that Kubernetes takes from the recipe's: base.yaml gives maskline-base."""
    stem = re.sub(r"[^a-z0-9]+", "-", PurePosixPath(path).stem.lower())
    return f"maskline-{stem}"[:_MAX_NAME_CHARACTERS].strip("-")


def _pod(name: str, recipe: Recipe, size: tuple[str, str]) -> dict[str, Any]:
    """Return the template of a pod; what the recipe names on disks is mounted where it is here."""
    cpu, memory = size
    container: dict[str, Any] = {
        "name": name,
        "image": f"maskline:{version('maskline')}",
        "env": [{"name": "RAY_USAGE_STATS_ENABLED", "value": "0"}],
        "resources": {
            "requests": {"cpu": cpu, "memory": memory},
            "limits": {"cpu": cpu, "memory": memory},
        },
    }
    if name == "ray-head":
        ports = {"gcs-server": 6379, "dashboard": 8265}
        container["ports"] = [{"name": key, "containerPort": port} for key, port in ports.items()]
    pod: dict[str, Any] = {"containers": [container]}
    if claims := _claims(recipe):
        container["volumeMounts"] = [
            {"name": claim, "mountPath": folder} for claim, folder in claims
        ]
        pod["volumes"] = [
            {"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim, _ in claims
        ]
    return {"spec": pod}


def _dump(manifest: dict[str, Any]) -> list[str]:
    text = yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True, width=2**20)
    return text.splitlines()
