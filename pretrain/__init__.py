"""A snapshot becomes a RoBERTa checkpoint: streaming, masking, DeepSpeed ZeRO training, export."""
