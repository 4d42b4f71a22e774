"""Ask on many machines: a Ray Data pool of actors, each with an engine of its own.

The actors write the parts themselves; this process only hears of them. A row of the data set is one
part, so a worker that is lost costs the part it was at, which another asks anew; what had been
written before is never asked again, as in `collect.py`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import socket
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from unprompt.engines import Engine
from unprompt.messages import UserError
from unprompt.stages.collect import Ask, Asking, Missing, Part
from unprompt.store.files import first_line

_TRIES = 3
"""Times that a part is asked, if its worker is lost each time."""
_REACHED_IN = 5.0
"""Seconds to wait for a cluster's address; Ray itself waits for minutes."""


@dataclass(frozen=True)
class Workers:
    """Who asks.

    Attributes:
        address: `local` (this machine's processors and GPUs), `auto` (the cluster this machine is
            in), `host:port`, or `ray://host:port`.
        count: How many workers share the cluster's GPUs, or its processors where the model runs on
            those; one for each GPU, or each machine, unless given.
    """

    address: str
    count: int | None = None

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """In the cluster; a connection that is there already is used, and left open.

        Raises:
            UserError: Ray is not installed, or the cluster can't be reached.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would tell its makers
        # what becomes Ray's default; without it there is a warning
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
            import ray.data
        except ImportError:
            raise UserError(
                "Ray is not installed", where="--ray", fix="pip install 'unprompt[ray]'"
            ) from None
        if ray.is_initialized():
            yield
            return
        try:
            _try(self.address)
            ray.init(
                self.address,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"can't reach a Ray cluster at '{self.address}': {first_line(error)}",
                where="--ray",
                fix="start it with `ray start --head`, or write --ray local",
            ) from None
        try:
            yield
        finally:
            ray.shutdown()

    def ask(self, engine: Callable[[], Engine], *, gpu: bool) -> Ask:
        """Asks by all workers at once; `joined` must hold.

        Args:
            engine: Makes a worker's engine; is sent to the workers.
            gpu: Whether a worker needs a GPU.
        """

        def ask(
            asking: Asking, parts: Iterator[list[Missing]], progress: Callable[[int], object]
        ) -> Iterator[Part]:
            import ray
            import ray.data

            size, each = self._shares(gpu)
            context = ray.data.DataContext.get_current()
            context.enable_progress_bars, context.print_on_execution_start = False, False
            logging.getLogger("ray.data").setLevel(logging.ERROR)
            packed = [{"part": zlib.compress(pickle.dumps(part), 1)} for part in parts]
            rows = ray.data.from_items(packed, override_num_blocks=len(packed)).map_batches(
                _Worker,
                batch_size=None,
                compute=ray.data.ActorPoolStrategy(
                    size=min(size, len(packed)), max_tasks_in_flight_per_actor=1
                ),
                fn_constructor_args=(engine, asking, ray.remote(num_cpus=0)(_Begun).remote()),
                num_cpus=None if gpu else each,
                num_gpus=each if gpu else None,
            )
            machines = set[str]()
            for row in rows.iter_rows():
                if row["error"]:
                    what, where, fix = json.loads(row["error"])
                    raise UserError(what, where=where, fix=fix)
                part = Part(row["name"], row["keys"].split(), row["seconds"])
                if row["machine"] not in machines and not (asking.store / part.name).exists():
                    raise UserError(
                        "a worker has written here, but on its own machine",
                        where=str(asking.store),
                        fix="set store: to a folder or an address that all machines share",
                    )
                machines.add(row["machine"])
                progress(len(part.keys))
                yield part

        return ask

    def _shares(self, gpu: bool) -> tuple[int, float]:
        """How many workers, and what each takes of its machine: GPUs, or processors."""
        import ray

        kind = "GPU" if gpu else "CPU"
        alive = [node["Resources"].get(kind, 0) for node in ray.nodes() if node["Alive"]]
        machines = [have for have in alive if have]
        if not machines:
            raise UserError(
                f"the cluster has no {kind}",
                where="--ray",
                fix="start Ray on machines that have one, or set model.device",
            )
        size = self.count or (int(sum(machines)) if gpu else len(machines))
        each = sum(machines) / size if self.count or gpu else min(machines)
        each = min(int(each), int(max(machines))) if each >= 1 else each
        fit = sum(int(have / each + 1e-6) for have in machines)
        if fit < size:
            raise UserError(
                f"{size} workers with {each:g} {kind}s each don't fit onto the cluster's machines,"
                f" only {fit}",
                where="--workers",
                fix=f"try --workers {fit}",
            )
        return size, each


class _Worker:
    """Runs in its own process: an engine, and what it is asked. A refusal travels back as a row, so
    that it comes out as it went in.
    """

    def __init__(self, engine: Callable[[], Engine], asking: Asking, begun: Any) -> None:
        self._make, self._asking, self._begun, self._engine = engine, asking, begun, None

    def __call__(self, rows: dict[str, Any]) -> dict[str, list[Any]]:
        answered = [self._row(part) for part in rows["part"]]
        return {name: [row[name] for row in answered] for name in answered[0]}

    def _row(self, packed: bytes) -> dict[str, Any]:
        part, error = Part("", (), 0.0), ""
        try:
            missing = pickle.loads(zlib.decompress(packed))
            self._refuse_deadly(missing[0])
            self._engine = self._engine or self._make()
            part = self._asking.ask(self._engine, missing)
        except UserError as refused:
            error = json.dumps([refused.what, refused.where, refused.fix])
        return {
            "name": part.name,
            "keys": " ".join(part.keys),
            "seconds": part.seconds,
            "error": error,
            "machine": socket.gethostname(),
        }

    def _refuse_deadly(self, first: Missing) -> None:
        """Ray asks a lost part for ever, and one that kills each worker would never end."""
        import ray

        count: Any = ray.get(self._begun.again.remote(first.key))
        if count > _TRIES:
            raise UserError(
                f"a part was asked {_TRIES} times, and its worker died each time",
                where=f"the part with {first.prompt.example_id}",
                fix=(
                    "look at the workers' logs under /tmp/ray; out of memory: lower batch_size or"
                    " --workers"
                ),
            )


class _Begun:
    """Outlives the workers, and counts how often each part was begun."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def again(self, key: str) -> int:
        self._counts[key] += 1
        return self._counts[key]


def _try(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), _REACHED_IN).close()
