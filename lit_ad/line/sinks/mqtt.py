"""A sink that sends messages to an MQTT broker, by paho-mqtt."""

import os
from typing import Any
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from lit_ad.errors import UserError
from lit_ad.line.sinks.sink import LONGEST_PAUSE, DeliveryError, Outbox, has_valid_port

_USER, _PASSWORD = "LIT_AD_MQTT_USER", "LIT_AD_MQTT_PASSWORD"  # environment variables
_EXPECTED = "mqtt://HOST/TOPIC or mqtts://HOST:PORT/TOPIC; the topic may have slashes"


class Mqtt(Outbox):
    """Publishes the messages in order, with quality of service 1: the broker gets each message at least once.

    The environment variables LIT_AD_MQTT_USER and LIT_AD_MQTT_PASSWORD log in to the broker, if they are set.

    Args:
        address: mqtt://HOST[:PORT]/TOPIC, or mqtts:// for TLS.

    Raises:
        UserError: The address is not valid, or has a user or password in it.
    """

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self.topic = unquote(parts.path.strip("/"))
        if (
            parts.scheme not in ("mqtt", "mqtts")
            or not parts.hostname
            or not self.topic
            or {"+", "#", "?"} & {*address}
            or not has_valid_port(parts)
        ):
            raise UserError(f"to.mqtt is {address!r}, but it must be {_EXPECTED}")
        if parts.username or parts.password:
            raise UserError(
                "to.mqtt has a user or a password, which every user of this machine can see: set the environment "
                f"variables {_USER} and {_PASSWORD} instead"
            )
        self.client = paho.Client(CallbackAPIVersion.VERSION2)
        if user := os.environ.get(_USER):
            self.client.username_pw_set(user, os.environ.get(_PASSWORD))
        if parts.scheme == "mqtts":
            self.client.tls_set()
        self.refusal = ""
        self.client.on_connect = self._handle_connection
        self.client.reconnect_delay_set(1, int(LONGEST_PAUSE))
        self.client.connect_async(parts.hostname, parts.port or (8883 if parts.scheme == "mqtts" else 1883))
        self.client.loop_start()
        super().__init__(self._publish)

    def close(self) -> None:
        """Deliver the waiting messages as `Outbox.close` does, then disconnect from the broker."""
        super().close()
        self.client.disconnect()
        self.client.loop_stop()

    def _handle_connection(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        self.refusal = str(reason) if reason.is_failure else ""

    def _publish(self, text: str) -> None:
        """Send a message, and wait until the broker confirms it. Raises DeliveryError."""
        if not self.client.is_connected():
            raise DeliveryError(f"the broker does not answer: {self.refusal or 'no connection'}")
        message = self.client.publish(self.topic, text.encode(), qos=1)
        while not message.is_published():  # paho sends it again by itself if the connection is lost meanwhile
            if self.ended:
                raise DeliveryError("the broker does not confirm a message")
            message.wait_for_publish(0.5)
