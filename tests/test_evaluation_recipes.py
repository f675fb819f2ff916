"""The recipes of the commands that evaluate, as they are shipped."""

import json
import re
from pathlib import Path

import pytest
import yaml
from corpus_helpers import EVALUATION_RECIPES, REPOSITORY

from corpus.section import Section, load_section
from pretrain.evaluation.arms import AblationRecipe
from pretrain.evaluation.examples import TextExample, read_task
from pretrain.evaluation.recipe import Evaluation
from pretrain.evaluation.tasks import load_task
from pretrain.evaluation.trajectory import Trajectory

MODELS: dict[str, type[Section]] = {
    "recipes/ablate": AblationRecipe,
    "recipes/evaluate": Evaluation,
    "recipes/trajectory": Trajectory,
    "benchmarks/evaluate": Evaluation,
}


@pytest.mark.parametrize("name", MODELS)
def test_it_loads(name: str) -> None:
    load_section(MODELS[name], str(REPOSITORY / f"{name}.yaml"))


def test_there_is_no_other() -> None:
    assert {f"recipes/{name}" for name in EVALUATION_RECIPES} == {
        name for name in MODELS if name.startswith("recipes/")
    }
    assert all((REPOSITORY / "recipes" / f"{name}.yaml").exists() for name in EVALUATION_RECIPES)


def test_its_task_of_own_files_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (REPOSITORY / "recipes" / "evaluate.yaml").read_text().split("\n")
    start = lines.index("  # - name: reviews")
    end = next(n for n in range(start, len(lines)) if not lines[n].startswith("  #"))
    (values,) = yaml.safe_load("\n".join(line.replace("# ", "", 1) for line in lines[start:end]))
    monkeypatch.chdir(tmp_path)
    for split in ("train", "validation", "test"):
        (path,) = map(Path, values[split])
        path.parent.mkdir(exist_ok=True)
        rows = [
            {"id": n, "sentiment": label, "review": f"{split} {label}"}
            for n, label in enumerate(("negative", "positive", "unsure"))
        ]
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    data = read_task(load_task(values))
    assert data.labels == ("negative", "positive")
    assert [len(each.examples) for each in (data.train, data.validation)] == [2, 2]
    assert data.scored["test"].examples == (
        TextExample("0", "test negative", None, "negative"),
        TextExample("1", "test positive", None, "positive"),
    )


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("output=~/out", "output: ~/out begins with ~"),
        ("output=s3://bucket/out", "output: s3://bucket/out is a URL"),
        ("grid.learning_rates=[.inf]", "should be a finite number"),
        ("grid.learning_rates=[0]", "learning_rates.0: Input should be greater than 0"),
        ("grid.batch_sizes=[0]", "batch_sizes.0: Input should be greater than or equal to 1"),
        ("grid.weight_decay=.nan", "weight_decay: Input should be a finite number"),
        ("checkpoints=[{name: mine, path: ~/base}]", "path: ~/base begins with ~"),
    ],
)
def test_what_cannot_be_meant_is_refused(override: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        load_section(Evaluation, str(REPOSITORY / "recipes/evaluate.yaml"), [override])
