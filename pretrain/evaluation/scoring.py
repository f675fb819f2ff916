"""What a checkpoint reaches on tasks, as one number a task: the protocol's, without baselines.

An ablation and a trajectory ask it of many checkpoints. The number is the median over the
fine-tuning seeds, in the best cell of the grid, of the metric that selects; it is of the validation
examples, as the paper's tables are.
"""

from pydantic import Field, model_validator

from corpus.section import Section
from pretrain.evaluation.protocol import run_protocol
from pretrain.evaluation.recipe import Contestant, Evaluation, Grid, Seeds
from pretrain.evaluation.tasks import Tasks


class FineTuning(Section):
    """The tasks that checkpoints are compared by; keys mean what they mean in an evaluation."""

    tasks: Tasks = Field((), description="a preset's name and what differs")
    grid: Grid = Field(Grid(), description="for all tasks")
    task_grids: dict[str, Grid] = Field({}, description="for a task by name, before `grid`")
    seeds: Seeds = Field((0,), description="of every checkpoint's tuning")
    workers: int = Field(1, ge=1, description="runs side by side, by Ray where more than one")
    threads: int = Field(1, ge=1, description="CPU threads of a run")

    @model_validator(mode="after")
    def _is_an_evaluation(self) -> "FineTuning":
        if self.tasks:
            self.evaluation("checkpoint", "output")
        return self

    def evaluation(self, checkpoint: str, output: str) -> Evaluation:
        """Make the evaluation of one checkpoint."""
        return Evaluation(
            output=output,
            checkpoints=(Contestant(name="checkpoint", path=checkpoint),),
            baselines=(),
            save_models=False,
            **{name: getattr(self, name) for name in type(self).model_fields},
        )


def fine_tuned_scores(tuning: FineTuning, checkpoint: str, output: str) -> dict[str, float]:
    """Fine-tune an exported checkpoint on every task; what was done before is only read."""
    if not tuning.tasks:
        return {}
    entries = run_protocol(tuning.evaluation(checkpoint, output))
    return {entry.task: entry.winner.value for entry in entries}
