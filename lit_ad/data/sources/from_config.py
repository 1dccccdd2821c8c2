"""Make a source from a part of a configuration, without LightningCLI."""

import json
import re
from argparse import ArgumentError
from typing import Any

from jsonargparse import ArgumentParser

from lit_ad.data.sources.source import Source
from lit_ad.errors import UserError


def make_source(config: Any, key: str = "data.source") -> tuple[Source, dict[str, Any]]:
    """Return the source that a configuration describes, and the configuration with all defaults, as plain values.

    Args:
        config: A mapping of class_path and init_args.
        key: Key of the configuration, for messages.

    Raises:
        UserError: The configuration does not describe a source.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--source", type=Source, required=True)
    try:
        parsed = parser.parse_object({"source": config})
    except ArgumentError as error:
        reason = re.sub(r"\s+", " ", str(error).removeprefix('Parser key "source":')).strip()
        raise UserError(f"{key} describes no source of images: {reason}") from error
    return parser.instantiate(parsed).source, json.loads(json.dumps(parsed.source.as_dict(), default=str))
