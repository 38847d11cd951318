"""Ports are held while an instance lives, and are the same the next time."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from deploy.local.ports import HOST, Ports


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "ports.json"


def test_ports_come_back_in_whatever_order_they_are_asked_for(memory: Path) -> None:
    with Ports(memory) as first:
        before = {name: first[name] for name in ("gateway", "amqp")}
    with Ports(memory) as second:
        new = second["added"]
        assert {name: second[name] for name in ("amqp", "gateway")} == before
        assert new not in before.values()


def test_a_port_that_another_has_taken_is_replaced_and_the_others_stay(memory: Path) -> None:
    with Ports(memory) as first:
        gateway, amqp = first["gateway"], first["amqp"]
    with socket.create_server((HOST, gateway)), Ports(memory) as second:
        assert second["gateway"] != gateway
        assert second["amqp"] == amqp


def test_a_held_port_is_given_to_nobody_else_and_its_server_can_listen(memory: Path) -> None:
    with Ports(memory) as ports:
        with pytest.raises(OSError, match="in use"), socket.socket() as other:
            other.bind((HOST, ports["gateway"]))
        socket.create_server((HOST, ports["gateway"])).close()


@pytest.mark.parametrize("text", ["", "{"])
def test_a_memory_that_cannot_be_read_is_none(memory: Path, text: str) -> None:
    memory.write_text(text)
    with Ports(memory) as ports:
        assert ports["gateway"]
