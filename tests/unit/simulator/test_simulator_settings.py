"""The command line and its environment."""

import pytest

from simulator.settings import Settings, read


def test_the_command_line_wins_over_the_environment() -> None:
    environment = {"LANEWAY_SIMULATOR_HOST": "0.0.0.0", "LANEWAY_SIMULATOR_PORT": "4010"}
    assert read([], {}) == Settings("127.0.0.1", 0)
    assert read([], environment) == Settings("0.0.0.0", 4010)
    assert read(["--port", "4011"], environment) == Settings("0.0.0.0", 4011)


@pytest.mark.parametrize("port", ["http", "-1", "70000"])
def test_a_wrong_port_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read([], {"LANEWAY_SIMULATOR_PORT": port})
    assert "not a port" in capsys.readouterr().err
