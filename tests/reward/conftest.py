import shutil

import pytest

from r1lab.reward.sandbox import Sandbox, SandboxError

LIMITS = {"cpu_seconds": 1, "wall_seconds": 20, "memory_mib": 128, "output_mib": 1, "processes": 8}


@pytest.fixture(scope="session")
def sandboxed() -> Sandbox:
    """By bubblewrap; skips, with the reason, where that cannot work."""
    try:
        return Sandbox(**LIMITS, allow_unsandboxed=False)
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def unsandboxed() -> Sandbox:
    """With the limits alone, as where bubblewrap is not installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "which", lambda name: None)
        return Sandbox(**LIMITS, allow_unsandboxed=True)


@pytest.fixture(params=["sandboxed", "unsandboxed"])
def either(request) -> Sandbox:
    return request.getfixturevalue(request.param)
