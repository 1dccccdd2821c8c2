"""Which sinks a watched line has."""

from dataclasses import dataclass

from lit_ad.detector.runtimes import need
from lit_ad.errors import UserError
from lit_ad.line.sinks.json_lines import JsonLines
from lit_ad.line.sinks.sink import Sink


@dataclass(frozen=True)
class SinkSettings:
    """Where verdicts and alarms go to, as JSON.

    Args:
        json_lines: A file that each is appended to, in a line of its own; - is standard output.
        webhook: An http:// or https:// address that each is posted to. LIT_AD_WEBHOOK_TOKEN in the environment is its
            bearer token.
        mqtt: mqtt://HOST[:PORT]/TOPIC, or mqtts:// by TLS. LIT_AD_MQTT_USER and LIT_AD_MQTT_PASSWORD in the environment
            are for the broker.
        anomalous_only: Whether nominal verdicts are left out.
    """

    json_lines: str | None = None
    webhook: str | None = None
    mqtt: str | None = None
    anomalous_only: bool = False

    def make_sinks(self) -> dict[str, Sink]:
        """The sinks, by their names. Raises UserError where one makes no sense, or its package is not installed."""
        sinks: dict[str, Sink] = {}
        if self.webhook is not None:
            from lit_ad.line.sinks.webhook import Webhook

            sinks["webhook"] = Webhook(self.webhook)
        if self.mqtt is not None:
            need("paho.mqtt", "line")
            from lit_ad.line.sinks.mqtt import Mqtt

            sinks["mqtt"] = Mqtt(self.mqtt)
        if self.json_lines is not None:
            sinks["json_lines"] = JsonLines(self.json_lines)
        if self.anomalous_only and not sinks:
            raise UserError("--to.anomalous_only is about messages, and there are none: give --to.json_lines FILE")
        return sinks


SINKS = SinkSettings()
