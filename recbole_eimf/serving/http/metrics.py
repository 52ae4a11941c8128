"""What Prometheus reads. With several workers their figures are added up, through files in the shared folder."""

from __future__ import annotations

import contextlib
from pathlib import Path

from recbole_eimf.serving.http.held import worker_lives

#: why a connection was dropped: it asked nothing for too long, it asked nothing while a new one needed its place, its
#: client did not take the answer
IDLE, ROOM, UNTAKEN = DROPPED = ("idle", "room", "untaken")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The service's figures.

    Args:
        folder: that the workers share where there are several (``PROMETHEUS_MULTIPROC_DIR``), else None.
    """

    def __init__(self, folder: Path | None) -> None:
        # here, for it looks for PROMETHEUS_MULTIPROC_DIR when it is imported, and workers are forked after the imports
        from prometheus_client import (
            CONTENT_TYPE_LATEST,
            CollectorRegistry,
            Counter,
            Gauge,
            Histogram,
            platform_collector,
            process_collector,
        )

        self.content_type = CONTENT_TYPE_LATEST
        self._folder = folder
        self._registry = own = CollectorRegistry()
        self.requests = Counter("recbole_eimf_requests", "Requests answered", ("path", "status"), registry=own)
        self.seconds = Histogram(
            "recbole_eimf_request_seconds",
            "From a request's head to its answer's end",
            ("path",),
            buckets=_SECONDS,
            registry=own,
        )
        self.refused = Counter("recbole_eimf_over_capacity", "Requests answered 503", registry=own)
        self.dropped = Counter(
            "recbole_eimf_dropped_connections", "Connections closed by the service", ("why",), registry=own
        )
        for why in DROPPED:  # a figure that is not there yet cannot be told from one that is misspelt
            self.dropped.labels(why)
        self.unknown = Counter("recbole_eimf_unknown_items", "Items of histories that the model lacks", registry=own)
        self.popular = Counter("recbole_eimf_popularity_answers", "Histories answered by popularity", registry=own)
        self.under_way = Gauge(
            "recbole_eimf_under_way", "Requests under way", registry=own, multiprocess_mode="livesum"
        )
        self.generation = Gauge(
            "recbole_eimf_generation", "Of the model served", registry=own, multiprocess_mode="livemax"
        )
        self.items = Gauge(
            "recbole_eimf_items", "Items that can be recommended", registry=own, multiprocess_mode="livemax"
        )
        self.behind = Gauge(
            "recbole_eimf_workers_behind",
            "Workers that do not serve what was published last",
            registry=own,
            multiprocess_mode="livemostrecent",  # each that is asked counts all of them
        )
        if folder is None:
            process_collector.ProcessCollector(registry=own)
            platform_collector.PlatformCollector(registry=own)

    def text(self) -> bytes:
        """In Prometheus' format; gauges of workers that have ended do not count."""
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

        if self._folder is None:
            return generate_latest(self._registry)
        for file in self._folder.glob("gauge_live*_*.db"):
            process = int(file.stem.rpartition("_")[2])
            if not worker_lives(self._folder.parent, process):  # one that has only just begun serves nothing yet
                with contextlib.suppress(FileNotFoundError):  # somebody else was asked for the figures, too
                    mark_process_dead(process, str(self._folder))
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(self._folder))
        return generate_latest(registry)
