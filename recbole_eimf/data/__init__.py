"""From raw files to batches: ``prepare`` writes atomic files, ``dataset`` keeps them as flat sequences, ``protocol``
splits them, ``views`` and ``loader`` turn them into batches."""
