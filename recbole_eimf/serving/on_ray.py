"""The pieces of :mod:`recbole_eimf.serving.batch` spread over Ray Data: an actor per worker holds the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from recbole_eimf.serving.batch import Job, Spread, make_pieces
from recbole_eimf.serving.recommender import Recommender


class PieceMaker:
    """An actor's state: the model, loaded once."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.recommender = Recommender.load(job.model)

    def __call__(self, batch: dict) -> dict:
        for _ in make_pieces(self.job, batch["number"].tolist(), self.recommender):
            pass
        return batch


def over_ray(ray, workers: int | None) -> Spread:
    """Makes pieces on a started Ray; the model, the histories and the output must be on storage that all nodes see.

    Args:
        ray: the module, initialised; workers: actors, None as many as there are processors.
    """

    def spread(job: Job, numbers: Sequence[int]) -> Iterator[int]:
        import numpy as np

        if not numbers:
            return
        size = workers or max(int(ray.cluster_resources().get("CPU", 1)), 1)
        pool = ray.data.ActorPoolStrategy(size=max(min(size, len(numbers)), 1))
        ray.data.DataContext.get_current().enable_progress_bars = False
        source = ray.data.from_items([{"number": number} for number in numbers], parallelism=len(numbers))
        made = source.map_batches(
            PieceMaker, fn_constructor_args=(job,), compute=pool, batch_size=1, batch_format="numpy"
        )
        for row in made.iter_rows():
            yield int(np.asarray(row["number"]))

    return spread
