"""Instances on a Ray cluster: an existing one, or one that is started on this machine for as long as it is used.

A service is a gManager and its instances, actors with names that begin with `PREFIX` in the namespace `NAMESPACE`. It ends with the
process that started it, whatever way that ends; Ray starts those of its actors anew that die before.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import re
import socket
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from niah.engines import EngineError
from niah.engines.distkv.memory_map import map_text
from niah.engines.distkv.ray_calls import loaded
from niah.engines.distkv.ray_gmanager import Facts, RayGManager, State
from niah.engines.memory import size

NAMESPACE, PREFIX = "niah", "niah-distkv-"
STORE_BYTES = 256 << 20
"""For messages of more than 100 kB between instances, where niah starts Ray itself."""
START_SECONDS = 600.0
"""So long instances may take to start: their machines may have to wake, and the weights are read."""
_ANSWER_SECONDS = 10.0
_ADDRESS = re.compile(r"auto|local|(ray://)?[\w.-]+:\d+|(ray://)?\[[0-9a-fA-F:]+\]:\d+")


def check(cluster: str) -> None:
    """Whether instances could be put there, as far as can be told without going there. EngineError (settings); ImportError without Ray."""
    if not _ADDRESS.fullmatch(cluster):
        raise EngineError(f"--cluster: {cluster!r} is no Ray cluster: write auto, local, HOST:PORT or ray://HOST:PORT", kind="settings")
    needed = ["ray"] + ["grpc"] * cluster.startswith("ray://")
    for package in needed:
        if importlib.util.find_spec(package) is None:
            raise ImportError(package, name=package)


def connect(cluster: str, cpus: int) -> bool:
    """Be part of a cluster; whether this process was not before, and so has to `ray.shutdown()`. EngineError (settings)."""
    check(cluster)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # else all work that is not of Ray goes before ours
    ray = loaded()
    if ray.is_initialized():
        return False
    how: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": logging.ERROR}
    here = how | {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    address = "local" if cluster == "local" else _address(cluster)
    try:
        ray.init(address=address or "local", **(here if address in ("local", None) else how))
    except Exception as error:  # Ray raises that very class where it takes too long to start
        why = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise EngineError(f"--cluster {cluster}: Ray cannot be reached or started: {why[:200]}{_token()}", kind="settings") from None
    return True


def _token() -> str:
    """What may help where Ray lets nobody in, and says only that it could not connect."""
    return "" if os.environ.get("RAY_AUTH_MODE") else "; if it asks for a token, set RAY_AUTH_MODE=token"


def _address(cluster: str) -> str | None:
    """What to tell Ray of a cluster that runs already; None for `auto` where none does. EngineError (settings) where nothing answers: Ray
    itself would go on trying for a quarter of an hour.
    """
    given = os.environ.get("RAY_ADDRESS", "") if cluster == "auto" else cluster
    try:
        address: str = given or loaded()._private.services.canonicalize_bootstrap_address("auto")
    except ConnectionError:
        return None
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS):
            return given or "auto"  # Ray shows the token of this machine's own cluster to no address that is given
    except (OSError, ValueError):
        if not given:  # left over from one that did not end well
            return None
        told = f"--cluster {cluster}: no Ray cluster answers at {address}; ray start --head starts one there"
        raise EngineError(told, kind="settings") from None


def services(cluster: str) -> list[State]:
    """What the gManagers on an existing cluster tell, those that answer, the oldest first. EngineError (settings) where there is none."""
    check(cluster)
    ray = loaded()
    if cluster == "local":
        raise EngineError("--cluster: local starts a cluster; give auto or the address of one that runs", kind="settings")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ours = not ray.is_initialized()
    try:
        if ours:
            if (address := _address(cluster)) is None:
                raise EngineError("--cluster auto: no Ray cluster runs on this machine; give --cluster HOST:PORT", kind="settings")
            ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.CRITICAL)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError):
        raise EngineError(f"--cluster {cluster}: the Ray cluster does not let this process in{_token()}", kind="settings") from None
    found: list[State] = []
    try:
        for actor in ray.util.list_named_actors(all_namespaces=True):
            if actor["namespace"] == NAMESPACE and actor["name"].startswith(PREFIX) and actor["name"].endswith("gmanager"):
                try:
                    found.append(ray.get(ray.get_actor(actor["name"], NAMESPACE).state.remote(), timeout=10))
                except (ValueError, ray.exceptions.RayError):  # it has just ended
                    continue
    finally:
        if ours:
            ray.shutdown()
    return sorted(found, key=lambda state: state.started)


class Service:
    """The gManager and `count` instances with a copy of a model each, spread over a cluster's machines."""

    def __init__(self, cluster: str, count: int):
        self.names = tuple(str(number) for number in range(count))
        self._ours = connect(cluster, count + 1)
        self._prefix = f"{PREFIX}{uuid.uuid4().hex[:8]}-"
        self._group: Any = None
        self.gmanager: Any = None
        self.actors: dict[str, Any] = {}

    def start(self, model: str, plan: Mapping[str, Any]) -> list[Facts]:
        """Start all, and wait for them. EngineError (settings, checkpoint, memory) where one cannot be; then `close` is due."""
        ray = loaded()
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        from niah.engines.distkv.ray_worker import GROUPS, Plan, RayWorker

        gpus = int(ray.cluster_resources().get("GPU", 0) >= len(self.names))
        neighbours = self._places(gpus)
        options: dict[str, Any] = {"namespace": NAMESPACE, "max_restarts": -1}
        name = f"{self._prefix}gmanager"
        manager: Any = ray.remote(RayGManager)
        self.gmanager = manager.options(name=name, num_cpus=0, max_task_retries=-1, **options).remote(model)
        whole = Plan(names=self.names, namespace=NAMESPACE, actor=self._prefix, gmanager=name, neighbours=neighbours, **plan)
        worker: Any = ray.remote(concurrency_groups=GROUPS)(RayWorker)
        for number, each in enumerate(self.names):
            where = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=number)
            resources = {"num_cpus": 1, "num_gpus": gpus, "scheduling_strategy": where}
            self.actors[each] = worker.options(name=self._prefix + each, **resources, **options).remote(each, whole)
        return self._begun()

    def _places(self, gpus: int) -> int:
        """Reserve a core for each instance, on as many machines as there are; returns how many share a machine at most."""
        ray = loaded()
        free, needed = ray.cluster_resources().get("CPU", 0), len(self.names)
        if free < needed:
            raise EngineError(f"{needed} instances need as many CPUs, and the Ray cluster has {free:g}", kind="settings")
        bundle = {"CPU": 1.0} | ({"GPU": 1.0} if gpus else {})
        self._group = ray.util.placement_group([dict(bundle) for _ in self.names], strategy="SPREAD")
        if not self._group.wait(START_SECONDS):
            raise EngineError(f"the Ray cluster has no room for {needed} instances just now: others use it", kind="settings")
        nodes = sum(1 for node in ray.nodes() if node["Alive"])
        return math.ceil(needed / nodes)

    def _begun(self) -> list[Facts]:
        ray = loaded()

        try:
            calls = [actor.about.options(concurrency_group="watch").remote() for actor in self.actors.values()]
            told = ray.get(calls, timeout=START_SECONDS)
        except ray.exceptions.RayError as error:
            last = [line.strip() for line in str(error).splitlines() if line.strip()][-1:]
            raise EngineError(f"an instance did not start: {(last or [type(error).__name__])[0][:300]}", kind="settings") from None
        for each in told:
            if not isinstance(each, Facts):
                raise EngineError(each.message, kind=each.kind)
        ray.get([actor.beat.options(concurrency_group="control").remote() for actor in self.actors.values()], timeout=START_SECONDS)
        return told

    def state(self) -> State:
        """What the gManager tells."""
        ray = loaded()
        ray.get([actor.beat.options(concurrency_group="control").remote() for actor in self.actors.values()], timeout=START_SECONDS)
        return ray.get(self.gmanager.state.remote(), timeout=START_SECONDS)

    def close(self) -> None:
        """End all of it; a cluster that was started for it too."""
        ray = loaded()
        for actor in (*self.actors.values(), *([self.gmanager] if self.gmanager else [])):
            ray.kill(actor, no_restart=True)
        if self._group is not None:
            ray.util.remove_placement_group(self._group)
        self.actors, self.gmanager, self._group = {}, None, None
        if self._ours:
            ray.shutdown()
            self._ours = False


def map_of(state: State, width: int = 120, *, colours: bool = False) -> str:
    """Who holds what, as the gManager knows it."""
    some = next(iter(state.facts.values()), None)
    return map_text(state.ledger, some.block_bytes if some else 0, width=width, colours=colours)


def told(state: State) -> Sequence[str]:
    """A service in a line, and each machine in one."""
    nodes: dict[str, list[str]] = {}
    for name in sorted(state.facts):
        nodes.setdefault(state.facts[name].node, []).append(name)
    some = next(iter(state.facts.values()), None)
    memory = f" with {size(some.memory_bytes)} each, in blocks of {some.block_tokens} tokens" if some else ""
    where = [f"machine {node[:8]}: instances {', '.join(names)}" for node, names in sorted(nodes.items())]
    count = f"{len(state.ledger)} instances" if state.ledger else "instances are starting"
    return [f"{state.model}: {count}{memory}", *where]
