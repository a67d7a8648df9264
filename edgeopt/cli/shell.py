"""The command that teaches a shell edgeopt's commands and options."""

from __future__ import annotations

import click

from edgeopt.cli.output import echo


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a completion script for a shell.

    \b
    bash: edgeopt completion bash > ~/.local/share/bash-completion/completions/edgeopt
    zsh:  edgeopt completion zsh > ~/.zfunc/_edgeopt     (a folder of $fpath)
    fish: edgeopt completion fish > ~/.config/fish/completions/edgeopt.fish
    """  # noqa: D301 - click reads \\b as the character, which keeps the lines apart
    from click.shell_completion import get_completion_class

    script = get_completion_class(shell)
    assert script is not None
    echo(script(context.find_root().command, {}, "edgeopt", "_EDGEOPT_COMPLETE").source())


COMMANDS = (completion,)
