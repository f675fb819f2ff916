"""Other tools beside ours: their code is run by the interpreter of an environment of their own.

The project does not install them. A peer's code gets its arguments in `sys.argv`, and its result is
the last line that it prints, as JSON; what it writes to standard error is shown only if it fails.
"""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Makes `collate` in a peer's interpreter: masks as users of transformers draw them, on one thread.
COLLATOR = """
import torch
from tokenizers import Tokenizer, models
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast
torch.set_num_threads(1)
names = ["<s>", "<pad>", "</s>", "<unk>"] + [f"t{at}" for at in range(50260)] + ["<mask>"]
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(models.WordLevel({name: at for at, name in enumerate(names)})),
    bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>", mask_token="<mask>")
collate = DataCollatorForLanguageModeling(tokenizer)
"""


def run_peer(
    python: str, code: str, *arguments: str | Path, environment: Mapping[str, str] | None = None
) -> Any:  # noqa: ANN401 - each peer's own JSON
    """Run a peer's code with arguments, and more environment if given; return what it printed."""
    done = subprocess.run(
        [python, "-c", code, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | (environment or {}),
    )
    if done.returncode:
        raise RuntimeError(f"the peer failed with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])
