"""What a checkpoint is worth: labelled tasks, fine-tuning, scores, and the paper's tables."""
