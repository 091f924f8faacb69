"""Which ports the tests themselves listen on."""

from tests.servers import free_port, listening_ports


def test_processes_that_test_at_once_share_no_port() -> None:
    workers = [
        listening_ports({"PYTEST_XDIST_WORKER": f"gw{number}", "PYTEST_XDIST_WORKER_COUNT": "4"})
        for number in range(4)
    ]

    assert sorted(port for ports in workers for port in ports) == list(listening_ports({}))


def test_a_port_is_not_given_twice_while_there_are_others() -> None:
    ports = [free_port() for _ in range(200)]

    assert len(set(ports)) == 200
