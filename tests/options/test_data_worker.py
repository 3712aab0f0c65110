"""The command line of data-worker."""

import pytest

from mlcls_jax.options.data_worker import check, parse


def test_a_dispatcher_has_a_known_port_and_a_worker_a_free_one():
    assert parse(["--dispatcher"]).port == 5050
    options = parse(["--join", "grpc://10.0.0.2:5050", "--address", "10.0.0.3"])
    assert (options.join, options.port, options.address) == ("10.0.0.2:5050", 0, "10.0.0.3")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of the arguments --dispatcher --join is required"),
        (["--join", "host"], "--join host: it must be HOST:PORT"),
        (["--dispatcher", "--port", "70000"], "--port 70000: it must be 0 to 65535"),
        (["--dispatcher", "--address", "me"], "--address is that of a worker"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_a_missing_package_is_named(monkeypatch, capsys):
    monkeypatch.setattr("mlcls_jax.options.data_worker.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        check(["--dispatcher"])
    assert ended.value.code == 2 and "mlcls_jax[tf_data]" in capsys.readouterr().err
