"""What every test shares: thread limits, one ROS graph per test, the markers cuda and soak."""

import contextlib
import os
import signal
from collections.abc import Iterator

# Before torch, OpenMP or rclpy are imported. Two test processes share two cores: one thread each.
# Messages check their fields, discovery stays on this machine; child processes inherit all that.
for _name, _value in {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    "ROS_PYTHON_CHECK_FIELDS": "1",
}.items():
    os.environ[_name] = _value

import pytest  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run the long tests and the full counts")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cuda: needs a CUDA device; skipped where there is none")
    config.addinivalue_line("markers", "soak: long; runs with --soak (make soak) only")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--soak"):
        for item in items:
            if item.get_closest_marker("soak"):
                item.add_marker(pytest.mark.skip(reason="long: make soak runs it"))
    cuda = [item for item in items if item.get_closest_marker("cuda")]
    if cuda and not _has_cuda():
        for item in cuda:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session")
def soak(request: pytest.FixtureRequest) -> bool:
    """True under `make soak`: tests use their full counts."""
    return request.config.getoption("--soak")


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """A command that is run in this process and interrupted leaves Ctrl-C ignored, as processes
    that are started later would inherit it.
    """
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def _ros_logs(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["ROS_LOG_DIR"] = str(tmp_path_factory.mktemp("ros_logs"))


@contextlib.contextmanager
def _reserved_domain() -> Iterator[int]:
    coordinator = pytest.importorskip("domain_coordinator")
    before = os.environ.get("ROS_DOMAIN_ID")
    with coordinator.domain_id() as number:
        os.environ["ROS_DOMAIN_ID"] = str(number)
        try:
            yield number
        finally:
            os.environ.pop("ROS_DOMAIN_ID")
            if before is not None:
                os.environ["ROS_DOMAIN_ID"] = before


@pytest.fixture
def domain_id() -> Iterator[int]:
    """A ROS domain of this test alone, set in the environment for it and its children."""
    with _reserved_domain() as number:
        yield number


@pytest.fixture(scope="module")
def module_domain_id() -> Iterator[int]:
    """A ROS domain of this module alone, for nodes that several tests share."""
    with _reserved_domain() as number:
        yield number
