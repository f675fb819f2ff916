"""The recipes of the commands that evaluate, as they are shipped."""

import pytest
from corpus_helpers import EVALUATION_RECIPES, REPOSITORY

from corpus.section import Section, load_section
from pretrain.evaluation.arms import AblationRecipe
from pretrain.evaluation.recipe import Evaluation
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
