"""ESIM, the off-line stage of EIMF (section 3.2): text, clusters, prompts, LLM replies, interest embeddings.

Each stage is a function of its inputs and settings, cached under a hash of both; deleting the cache costs time only.
"""
