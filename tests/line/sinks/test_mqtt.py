"""A real broker, mosquitto, gets each message, also if it was not running for a while."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("paho.mqtt")
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from lit_ad.errors import UserError
from lit_ad.line.sinks import sink
from lit_ad.line.sinks.mqtt import Mqtt
from tests.serving import find_free_port

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
with_broker = pytest.mark.skipif(MOSQUITTO is None, reason="needs mosquitto: apt-get install mosquitto")


@contextmanager
def broker(folder: Path, port: int, settings: str = "allow_anonymous true\n") -> Iterator[None]:
    """Run mosquitto, which keeps its messages over a restart."""
    folder.chmod(0o777)  # mosquitto gives up the rights of root
    config = folder / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\npersistence true\npersistence_location {folder}/\n{settings}")
    assert MOSQUITTO is not None
    process = subprocess.Popen([MOSQUITTO, "-c", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def subscriber(port: int) -> Iterator[list[tuple[str, str]]]:
    """Subscribe as another program does, in a session that survives lost connections. Yield (topic, message) pairs."""
    got: list[tuple[str, str]] = []
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="reader", clean_session=False)
    client.on_connect = lambda client, *_: client.subscribe("factory/#", qos=1)
    client.on_message = lambda client, data, message: got.append((message.topic, message.payload.decode()))
    client.reconnect_delay_set(1, 1)
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        while not client.is_connected():
            time.sleep(0.01)
        time.sleep(0.3)  # the subscription
        yield got
    finally:
        client.disconnect()
        client.loop_stop()


def wait_for(got: list[tuple[str, str]], count: int) -> None:
    end = time.monotonic() + 30
    while len(got) < count and time.monotonic() < end:
        time.sleep(0.02)


@with_broker
def test_a_broker_gets_each_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(sink, "LONGEST_PAUSE", 0.2)
    port = find_free_port()
    with broker(tmp_path, port), subscriber(port) as got:
        mqtt = Mqtt(f"mqtt://127.0.0.1:{port}/factory/line-1/verdicts")
        for number in range(50):
            mqtt.send(str(number))
        mqtt.close()
        wait_for(got, 50)
    assert got == [("factory/line-1/verdicts", str(number)) for number in range(50)]
    assert mqtt.status() == {"sent": 50, "dropped": 0, "waiting": 0, "trouble": None}


@with_broker
def test_a_broker_that_starts_late_gets_the_message(tmp_path: Path) -> None:
    port = find_free_port()
    mqtt = Mqtt(f"mqtt://127.0.0.1:{port}/factory/x")
    mqtt.send("early")
    end = time.monotonic() + 10
    while not mqtt.trouble and time.monotonic() < end:
        time.sleep(0.02)
    assert mqtt.trouble.startswith("the broker does not answer")
    with broker(tmp_path, port), subscriber(port) as got:
        wait_for(got, 1)
        mqtt.close()
    assert got == [("factory/x", "early")] and mqtt.dropped == 0


@with_broker
def test_messages_for_a_broker_that_refuses_the_login_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "CLOSE_SECONDS", 1.0)
    port = find_free_port()
    with broker(tmp_path, port, "allow_anonymous false\n"):
        mqtt = Mqtt(f"mqtt://127.0.0.1:{port}/factory/x")
        mqtt.send("{}")
        mqtt.close()
    assert mqtt.dropped == 1 and "Not authorized" in mqtt.trouble


def test_wrong_addresses_are_refused() -> None:
    for address in ("http://host/x", "mqtt://host", "mqtt:///x", "mqtt://host/a/#", "mqtt://host:99999/x"):
        with pytest.raises(UserError, match=r"it must be mqtt://HOST/TOPIC"):
            Mqtt(address)
    with pytest.raises(UserError, match="variables LIT_AD_MQTT_USER and LIT_AD_MQTT_PASSWORD"):
        Mqtt("mqtt://ada:geheim@host/x")
