"""SHELL: the standard files of a command, which may be full, or read by nobody."""

import os

import click

STDOUT, STDERR = 1, 2


def complain(text: str) -> None:
    """Say it on standard error. That nobody can read it changes nothing."""
    try:
        click.echo(text, err=True)
    except OSError:
        let_go(STDERR)


def let_go(file: int) -> None:
    """Nothing can be written there; the interpreter must not try to, either, when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), file)
