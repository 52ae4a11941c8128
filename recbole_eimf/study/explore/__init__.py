"""The LLM's part of a run, made visible."""
