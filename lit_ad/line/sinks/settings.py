"""Settings of the sinks of a watched line."""

from dataclasses import dataclass

from lit_ad.detector.runtimes import import_optional
from lit_ad.errors import UserError
from lit_ad.line.sinks.json_lines import JsonLines
from lit_ad.line.sinks.sink import Sink


@dataclass(frozen=True)
class SinkSettings:
    """Where to send verdicts and alarms, as JSON.

    Args:
        json_lines: Append each message as a line to this file. - is standard output.
        webhook: Post each message to this http:// or https:// address. The environment variable LIT_AD_WEBHOOK_TOKEN
            is sent as its bearer token.
        mqtt: Publish each message at mqtt://HOST[:PORT]/TOPIC, or mqtts:// for TLS. The environment variables
            LIT_AD_MQTT_USER and LIT_AD_MQTT_PASSWORD log in to the broker.
        anomalous_only: Send no nominal verdicts.
    """

    json_lines: str | None = None
    webhook: str | None = None
    mqtt: str | None = None
    anomalous_only: bool = False

    def make_sinks(self) -> dict[str, Sink]:
        """Make the sinks that are set, by name.

        Raises:
            UserError: A setting is not valid, or the package of a sink is not installed.
        """
        sinks: dict[str, Sink] = {}
        if self.webhook is not None:
            from lit_ad.line.sinks.webhook import Webhook

            sinks["webhook"] = Webhook(self.webhook)
        if self.mqtt is not None:
            import_optional("paho.mqtt", "line")
            from lit_ad.line.sinks.mqtt import Mqtt

            sinks["mqtt"] = Mqtt(self.mqtt)
        if self.json_lines is not None:
            sinks["json_lines"] = JsonLines(self.json_lines)
        if self.anomalous_only and not sinks:
            raise UserError(
                "--to.anomalous_only selects messages, but there is no receiver: give --to.json_lines FILE as well"
            )
        return sinks


SINKS = SinkSettings()
