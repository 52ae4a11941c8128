"""PAD: experts, towers and the model."""
