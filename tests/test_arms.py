"""What an ablation is made of: what is held equal, which runs are shared, what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from corpus.section import load_section
from pretrain.evaluation.arms import (
    AblationRecipe,
    check_passes,
    list_runs,
    list_settings,
    packings,
    run_of,
)
from pretrain.evaluation.published import FORMATS

ROW_TOKENS = {"full-sentences": 60.0, "doc-sentences": 40.0, "segment-pair": 59.0,
              "sentence-pair": 20.0}  # fmt: skip
BATCHES = [{"sequences": size, "learning_rate": rate} for size, rate in
           ((4, 0.001), (32, 0.003), (128, 0.005))]  # fmt: skip


def ablation_values(**ablation: Any) -> dict[str, Any]:  # noqa: ANN401
    return {
        "store": "store",
        "snapshot": "one",
        "sources": [{"name": "books", "paths": ["unused"]}],
        "pretrain": {
            "preset": "tiny", "max_steps": 160, "batch_sequences": 32, "warmup_steps": 16,
            "learning_rate": 0.003,
        },
        "ablation": {"output": "out", "mask_copies": 2, "batches": BATCHES} | ablation,
    }  # fmt: skip


def make_ablation(**ablation: Any) -> AblationRecipe:  # noqa: ANN401
    return AblationRecipe.model_validate(ablation_values(**ablation))


def test_settings_hold_equal_what_the_paper_holds_equal() -> None:
    settings = list_settings(make_ablation(), ROW_TOKENS)
    by_table = {
        table: {each.name: each.pretrain for each in settings if each.table == table}
        for table in ("masking", "formats", "batches")
    }
    static, dynamic = by_table["masking"]["static"], by_table["masking"]["dynamic"]
    assert (static.mask_copies, dynamic.mask_copies) == (2, None)
    assert static.model_copy(update={"mask_copies": None}) == dynamic
    for name, config in by_table["formats"].items():
        assert config.batch_sequences * ROW_TOKENS[name] == pytest.approx(32 * 60, rel=0.02)
        assert config.max_steps == 160
    for config in by_table["batches"].values():
        assert config.max_steps * config.batch_sequences == 160 * 32
        assert config.warmup_steps / config.max_steps == pytest.approx(0.1)
    assert [each.learning_rate for each in by_table["batches"].values()] == [0.001, 0.003, 0.005]


def test_equal_runs_are_made_once() -> None:
    settings = list_settings(make_ablation(), ROW_TOKENS)
    assert len(settings) == 2 + 4 + 3
    # dynamic = full-sentences = the middle batch, which is that of the recipe.
    runs = list_runs(settings, (0, 1, 2), dict.fromkeys(FORMATS, "snapshot"))
    assert len(runs) == 3 * 7
    assert len({run.name for run in runs}) == len(runs)
    assert [run.pretrain.seed for run in runs] == [0] * 7 + [1] * 7 + [2] * 7


def test_settings_are_keys_whatever_the_recipe_holds() -> None:
    values = ablation_values(tables=["masking"])
    values["pretrain"]["mixing"] = {"books": 1.0}
    settings = list_settings(AblationRecipe.model_validate(values), {})
    assert len(dict.fromkeys(settings)) == 2
    assert len(list_runs(settings, (0, 1, 2), dict.fromkeys(FORMATS, "snapshot"))) == 6


def test_a_run_is_named_by_what_determines_it() -> None:
    setting = list_settings(make_ablation(tables=["masking"]), {})[0]
    name = run_of(setting, 0, "snapshot").name
    assert name.startswith("full-sentences-batch32-copies2-seed0-")

    def changed(**values: Any) -> str:  # noqa: ANN401
        config = setting.pretrain.model_copy(update=values)
        return run_of(replace(setting, pretrain=config), 0, "snapshot").name

    assert changed(run="elsewhere", checkpoint_every_steps=7, keep_checkpoints=9) == name
    for other in (
        changed(learning_rate=0.1), changed(preset="small"), changed(processes=2),
        run_of(setting, 1, "snapshot").name, run_of(setting, 0, "other").name,
    ):  # fmt: skip
        assert other != name


@given(st.integers(1, 500), st.integers(1, 300), st.integers(1, 300))
def test_batches_of_any_size_see_about_as_many_sequences(steps: int, base: int, size: int) -> None:
    sizes = [size, size + 1, size + 2]
    recipe = make_ablation(
        tables=["batches"], batches=[{"sequences": each, "learning_rate": 0.1} for each in sizes]
    )
    pretrain = recipe.pretrain.model_copy(
        update={"max_steps": steps, "batch_sequences": base, "warmup_steps": steps // 2}
    )
    for setting in list_settings(recipe.model_copy(update={"pretrain": pretrain}), {}):
        config = setting.pretrain
        found = config.max_steps * config.batch_sequences
        assert abs(found - steps * base) <= config.batch_sequences
        assert config.warmup_steps <= config.max_steps


def test_stores_are_those_that_the_tables_need() -> None:
    assert packings(make_ablation(tables=["masking"])) == ("full-sentences",)
    assert set(packings(make_ablation())) == set(FORMATS)
    values = ablation_values()
    values["pack"] = {"format": "stream"}
    assert packings(AblationRecipe.model_validate(values)) == ("stream", *FORMATS)


def test_static_masks_must_come_back() -> None:
    recipe = make_ablation()
    check_passes(recipe, 2559)
    with pytest.raises(ValueError, match=r"pass over the 2,560 rows 2\.0 times: static masks"):
        check_passes(recipe, 2560)
    check_passes(make_ablation(tables=["batches"]), 10**6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": [0, 1]}, "give three or more different ones"),
        ({"seeds": [0, 1, 1]}, "give three or more different ones"),
        ({"seeds": [0, 1, -2]}, "give whole numbers from 0 on"),
        ({"batches": BATCHES[:2]}, "batches has 2 sizes: Table 3 needs three, rising"),
        ({"batches": BATCHES[::-1]}, "give them rising"),
        ({"tables": ["table 4"]}, "ablation.tables.0"),
        ({"seed": 1}, "unknown key ablation.seed: did you mean seeds?"),
        ({"fine_tuning": {"tasks": [{"name": "sst3"}]}}, "the nearest is sst2"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "ablate.yaml"
    path.write_text(yaml.safe_dump(ablation_values(**change)))
    with pytest.raises(ValueError, match=message.replace(".", r"\.").replace("?", r"\?")):
        load_section(AblationRecipe, str(path))


def test_a_ramp_of_the_batch_is_refused() -> None:
    values = ablation_values()
    values["pretrain"]["batch_ramp"] = {"from_sequences": 2, "batches": 10}
    with pytest.raises(ValueError, match="needs batches of one size"):
        AblationRecipe.model_validate(values)


def test_the_recipe_that_is_shipped_is_whole() -> None:
    path = Path(__file__).parent.parent / "recipes" / "ablate.yaml"
    recipe = load_section(AblationRecipe, str(path))
    assert len(list_settings(recipe, ROW_TOKENS)) == 9
    assert recipe.base.pretrain == recipe.pretrain
