"""What goes to standard output for machines."""

from __future__ import annotations

from typing import Any

import click


def print_json(value: Any) -> None:
    """Print anything that msgspec encodes, indented."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
