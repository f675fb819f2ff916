"""Small checkpoint directories that transformers loads, with random weights."""

from pathlib import Path

import torch
from pretrain_helpers import MERGES
from transformers import RobertaConfig, RobertaForMaskedLM

from corpus.files import write_bytes
from corpus.tokenizer import Tokenizer, build_definition, tokenizer_files

MAX_LENGTH = 32


def write_checkpoint(directory: Path, seed: int = 0) -> Path:
    """Write a RoBERTa of two narrow layers that has opinions, with a byte-level tokenizer."""
    tokenizer = Tokenizer(build_definition(MERGES))
    torch.manual_seed(seed)
    config = RobertaConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=64, max_position_embeddings=MAX_LENGTH + 2,
        type_vocab_size=1, initializer_range=0.3,
    )  # fmt: skip
    RobertaForMaskedLM(config).save_pretrained(directory)
    settings = f'{{"tokenizer_class": "RobertaTokenizer", "model_max_length": {MAX_LENGTH}}}'
    for name, data in tokenizer_files(tokenizer).items():
        write_bytes(str(directory / name), data)
    write_bytes(str(directory / "tokenizer_config.json"), settings.encode())
    return directory
