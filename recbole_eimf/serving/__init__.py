"""From a run to recommendations: the model folder, exact multi-interest search, new items, explanations.

Nothing here imports RecBole, Ray or transformers but ``export`` (which reads a run) and the encoding of new titles.
"""
