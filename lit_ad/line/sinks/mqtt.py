"""Messages to an MQTT broker, by paho-mqtt."""

import os
from typing import Any
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from lit_ad.errors import UserError
from lit_ad.line.sinks.sink import LONGEST_PAUSE, Failed, Outbox, has_port

USER, PASSWORD = "LIT_AD_MQTT_USER", "LIT_AD_MQTT_PASSWORD"
EXPECTED = "mqtt://HOST/TOPIC or mqtts://HOST:PORT/TOPIC, and the topic may have slashes"


class Mqtt(Outbox):
    """Publishes each message with quality of service 1: the broker has it at least once, in order.

    The environment variables LIT_AD_MQTT_USER and LIT_AD_MQTT_PASSWORD are given to a broker that asks for them.

    Args:
        address: mqtt://HOST[:PORT]/TOPIC; mqtts:// by TLS.

    Raises:
        UserError: It is none.
    """

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self.topic = unquote(parts.path.strip("/"))
        if (
            parts.scheme not in ("mqtt", "mqtts")
            or not parts.hostname
            or not self.topic
            or {"+", "#", "?"} & {*address}
            or not has_port(parts)
        ):
            raise UserError(f"to.mqtt is {address!r}, but it must be {EXPECTED}")
        if parts.username or parts.password:
            raise UserError(f"to.mqtt has a user or password, which any user sees: set {USER} and {PASSWORD}")
        self.client = paho.Client(CallbackAPIVersion.VERSION2)
        if user := os.environ.get(USER):
            self.client.username_pw_set(user, os.environ.get(PASSWORD))
        if parts.scheme == "mqtts":
            self.client.tls_set()
        self.refusal = ""
        self.client.on_connect = self._connected
        self.client.reconnect_delay_set(1, int(LONGEST_PAUSE))
        self.client.connect_async(parts.hostname, parts.port or (8883 if parts.scheme == "mqtts" else 1883))
        self.client.loop_start()
        super().__init__(self._publish)

    def close(self) -> None:
        """As `Outbox` does; then leave the broker."""
        super().close()
        self.client.disconnect()
        self.client.loop_stop()

    def _connected(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        self.refusal = str(reason) if reason.is_failure else ""

    def _publish(self, text: str) -> None:
        if not self.client.is_connected():
            raise Failed(f"the broker does not answer: {self.refusal or 'no connection'}")
        message = self.client.publish(self.topic, text.encode(), qos=1)
        while not message.is_published():  # paho sends it again itself where the connection is lost in between
            if self.ended:
                raise Failed("the broker does not say that it has a message")
            message.wait_for_publish(0.5)
