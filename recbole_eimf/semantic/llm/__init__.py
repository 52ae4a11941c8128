"""The client of an LLM: prompts, calls, replies."""
