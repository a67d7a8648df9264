"""Commands about recipes themselves: what their keys mean."""

from __future__ import annotations

import click

from edgeopt.cli.options import as_json
from edgeopt.cli.output import print_json


@click.command()
def schema() -> None:
    """Print the JSON schema of a recipe.

    Editors check and complete an edgeopt.toml with it, for instance by Even Better TOML's ``#:schema`` comment.
    """
    from edgeopt.config import json_schema

    print_json(json_schema())


@click.command("explain-key")
@click.argument("key")
@as_json
def explain_key(key: str, as_json: bool) -> None:  # noqa: FBT001 - a click flag
    """Explain a key or table of a recipe.

    KEY is dotted, such as calibrate.images, data.train or model.preprocessing.steps.letterbox. A format of data is
    explained with the keys that it reads: data.voc, data.coco.
    """
    from edgeopt.cli.console import console
    from edgeopt.cli.views.keys import key_view
    from edgeopt.keys import explain

    found = explain(key)
    if as_json:
        print_json(found)
    else:
        console().print(key_view(found))


COMMANDS = (schema, explain_key)
