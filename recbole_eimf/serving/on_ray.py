"""The pieces of :mod:`recbole_eimf.serving.batch` spread over Ray Data: an actor per worker holds the model."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence

from recbole_eimf.core.errors import UserError
from recbole_eimf.core.ray_start import start_ray
from recbole_eimf.serving.batch import Job, Spread, make_pieces
from recbole_eimf.serving.recommender import Recommender


@contextlib.contextmanager
def over_ray(workers: int | None = None, address: str | None = None) -> Iterator[Spread]:
    """Start Ray on this machine, or join the cluster at ``address``, whose nodes must see model, histories and output.

    Args:
        workers: copies of the model that answer at a time; None: one a processor.

    Raises:
        ConfigError: no cluster answers at ``address``.
    """
    slots = (workers or os.cpu_count() or 1) + 1  # Ray Data keeps one to read its numbers with
    ray = start_ray(address, slots, 1, "type the same command again, or leave out --ray")
    try:
        yield lambda job, numbers: _spread(ray, workers, job, numbers)
    finally:
        ray.shutdown()


class PieceMaker:
    """An actor's state: the model, loaded once."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.recommender = Recommender.load(job.model)

    def __call__(self, batch: dict) -> dict:
        for _ in make_pieces(self.job, batch["number"].tolist(), self.recommender):
            pass
        return batch


def _spread(ray, workers: int | None, job: Job, numbers: Sequence[int]) -> Iterator[int]:
    if not numbers:
        return
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.WARNING)  # the bar of users says what is going on
    size = workers or int(ray.cluster_resources().get("CPU", 2)) - 1
    pool = ray.data.ActorPoolStrategy(size=max(min(size, len(numbers)), 1))
    ray.data.DataContext.get_current().enable_progress_bars = False
    job = Job(**{**job.__dict__, **_absolute(job)})  # actors stand elsewhere
    source = ray.data.from_items([{"number": number} for number in numbers], override_num_blocks=len(numbers))
    made = source.map_batches(PieceMaker, fn_constructor_args=(job,), compute=pool, batch_size=1, batch_format="numpy")
    try:
        for row in made.iter_rows():
            yield int(row["number"])
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, UserError):
            raise cause from None
        raise


def _absolute(job: Job) -> dict[str, str]:
    return {name: os.path.abspath(getattr(job, name)) for name in ("model", "histories", "out")}
