"""Replicas of the gateway; Ray Serve is played here, and real in tests/cluster/ray_serve.py."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gateway.conftest import Start

from atts.config import Config, parse_config
from atts.errors import CalibrationError, ConfigError, ServerError, StoreError
from atts.gateway import replicated
from atts.gateway.metrics import Metrics, of_replicas
from atts.gateway.replicated import NAME, HeldGateway, end_without, serve_replicated
from atts.gateway.server import Opened, ServeOptions


class PlayedServe:
    """Ray Serve, as far as it is asked here; ``fails`` is what a replica's constructor raises."""

    def __init__(self, fails: str = "") -> None:
        self.told: list[str] = []
        self.options: dict[str, Any] = {}
        self.bound: tuple[Any, ...] = ()
        self.fails = fails
        self.applications: dict[str, Any] = {}

    def start(self, **options: Any) -> None:  # noqa: ANN401
        self.options |= options

    def ingress(self) -> Callable[[type], type]:
        return lambda kind: kind

    def deployment(self, **options: Any) -> Callable[[type], Any]:  # noqa: ANN401
        self.options |= options
        return lambda kind: SimpleNamespace(bind=lambda *bound: (kind, *bound))

    def run(self, application: tuple[Any, ...], **_: object) -> None:
        self.bound = application
        message = f"the log of it\n{self.fails}\n"
        deployments = {NAME: SimpleNamespace(message=message)}
        self.applications = {NAME: SimpleNamespace(deployments=deployments)}
        if self.fails:
            raise RuntimeError("deploying failed")

    def status(self) -> SimpleNamespace:
        return SimpleNamespace(applications=self.applications)

    def delete(self, name: str, _blocking: bool) -> None:
        self.told.append(f"delete {name}")
        self.applications = {}

    def shutdown(self) -> None:
        self.told.append("shutdown")


class PlayedRay:
    def __init__(self, is_running: bool = False) -> None:
        self._is_running = is_running

    def get_actor(self, _name: str, namespace: str) -> None:
        del namespace
        if not self._is_running:
            raise ValueError

    def cluster_resources(self) -> dict[str, float]:
        return {"GPU": 2.0}

    def remote(self, _kind: type) -> Any:  # noqa: ANN401
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda: "the owner"))


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[..., PlayedServe]:
    def made(fails: str = "", is_running: bool = False) -> PlayedServe:
        serve = PlayedServe(fails)

        @contextmanager
        def connected(_: str) -> Iterator[PlayedRay]:
            yield PlayedRay(is_running)

        monkeypatch.setattr(replicated, "connected", connected)
        monkeypatch.setattr(replicated, "_ray_serve", lambda: serve)
        return serve

    return made


def options(tmp_path: Path, **changes: Any) -> ServeOptions:  # noqa: ANN401
    return ServeOptions(directory=tmp_path / "serve", **changes)


async def test_it_serves_until_it_is_told_to_end(
    play: Callable[..., PlayedServe], tmp_path: Path
) -> None:
    serve, addresses = play(), []

    def started(address: str, names: list[str]) -> None:
        addresses.append(address)
        assert "atts" in names
        assert serve.told == []
        os.kill(os.getpid(), signal.SIGTERM)

    config = parse_config({"limits": {"chains": 100}}, "a test")
    how = options(tmp_path, host="::1", port=9, key="s3cret", most_waiting=50, drain_seconds=7)
    await serve_replicated(config, how, "auto", 3, started)
    assert addresses == ["http://[::1]:9"]
    assert serve.told == ["delete atts", "shutdown"]
    assert serve.options["num_replicas"] == 3
    assert serve.options["max_ongoing_requests"] > 150
    assert serve.options["graceful_shutdown_timeout_s"] == 7
    assert serve.options["proxy_location"] == "HeadOnly"
    assert serve.options["ray_actor_options"] == {"num_cpus": 1, "num_gpus": 1}
    assert serve.bound[1:] == (config, how, str(Path.cwd()), "the owner")
    assert "s3cret" not in repr(how)


async def test_what_stands_in_the_way_is_told(
    play: Callable[..., PlayedServe], tmp_path: Path
) -> None:
    split = parse_config({"take_over": {"control": "split"}}, "a test")
    for config, how, error, told in (
        (Config(), options(tmp_path, host="10.0.0.1"), ConfigError, "set an API key"),
        (Config(), options(tmp_path, port=0), ConfigError, "needs a --port"),
        (split, options(tmp_path), CalibrationError, "calibration"),
    ):
        with pytest.raises((ConfigError, error), match=told):
            await serve_replicated(config, how, "auto", 1, print)
    serve = play(is_running=True)
    with pytest.raises(ConfigError, match="Ray Serve runs on this cluster already"):
        await serve_replicated(Config(), options(tmp_path), "auto", 1, print)
    assert serve.told == []  # it is somebody else's
    serve = play(fails="atts.errors.EngineConnectionError: nobody is there")
    with pytest.raises(ServerError, match=r"cannot be started: .*: nobody is there"):
        await serve_replicated(Config(), options(tmp_path), "auto", 1, print)
    assert serve.told == ["shutdown"]


async def test_a_replica_has_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []

    @asynccontextmanager
    async def open_gateway(
        _config: Config, how: ServeOptions, figures: object
    ) -> AsyncIterator[Opened]:
        assert figures
        opened.append(how.directory)
        metrics = Metrics()
        metrics.aborted(len(opened))
        yield Opened(Any, [], Any, metrics)  # type: ignore[arg-type]
        opened.append(Path("closed"))

    monkeypatch.setattr(replicated, "open_gateway", open_gateway)
    monkeypatch.chdir(tmp_path)
    how = ServeOptions(directory=Path("serve"))
    made = [HeldGateway(Config(), how) for _ in range(2)]
    assert [await each.app() for each in made] == [Any, Any]
    assert opened == [Path("serve/replica-1"), Path("serve/replica-2")]
    told = dict([await each.figures() for each in made])
    text = of_replicas(told).decode()
    assert 'atts_chains_aborted_total{replica="1"} 1.0' in text
    assert 'atts_chains_aborted_total{replica="2"} 2.0' in text
    assert text.count("# TYPE atts_chains_aborted_total counter") == 1

    response = SimpleNamespace(results_async=lambda **_: _answered([*told.items(), OSError()]))
    handle = SimpleNamespace(broadcast=lambda _: response)
    serve = SimpleNamespace(get_deployment_handle=lambda *_: handle)
    monkeypatch.setattr(replicated, "_ray_serve", lambda: serve)
    assert (await replicated._figures()).decode() == text

    for each in made:
        await each.aclose()
    assert opened[2:] == [Path("closed")] * 2


async def _answered(told: list[Any]) -> list[Any]:
    return told


async def test_a_replica_that_cannot_open_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "serve").touch()
    held = HeldGateway(Config(), ServeOptions(directory=Path("serve")))
    with pytest.raises(StoreError, match="cannot open the folder serve"):
        await held.app()
    await held.aclose()


async def test_a_replica_ends_ray_serve_where_the_command_is_gone(
    play: Callable[..., PlayedServe],
) -> None:
    ray = pytest.importorskip("ray")
    serve = play()

    async def gone() -> None:
        raise ray.exceptions.RayActorError

    owner = SimpleNamespace(lives=SimpleNamespace(remote=gone))
    await end_without(owner)
    for _ in range(100):
        if serve.told:
            break
        await asyncio.sleep(0.01)
    assert serve.told == ["shutdown"]


async def test_the_figures_of_replicas_stand_beside_each_other(start: Start) -> None:
    async with start() as running:
        assert (await running.chat()).status_code == 200
        text = (await running.client.get("/metrics")).content
    merged = of_replicas({"1": text, "2": text}).decode()
    assert merged.count('atts_chains_total{end="answer",method="atts",replica=') == 2
    assert 'atts_p_value_bucket{le="0.05",method="atts",replica="2"}' in merged
