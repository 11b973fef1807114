"""`make faults`: histories under random faults, one after the other, each from its seed, each judged when it ends."""

import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

import click

from tests.faults.checker import mistakes, story
from tests.faults.stage import play


@click.command()
@click.option("--seconds", default=600.0, help="For how long in all.")
@click.option("--each", default=60.0, help="Seconds of faults in one history.")
@click.option("--seed", type=int, default=None, help="Of the first history; the next ones follow it.")
@click.option("--members", type=click.Choice(["1", "3", "both"]), default="both", help="Of the etcd cluster.")
def main(seconds: float, each: float, seed: int | None, members: str) -> None:
    """Play histories until the time is over, or one shows a mistake. Logs of a bad one stay where it says."""
    seed = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    end = time.monotonic() + seconds
    sizes = (1, 3) if members == "both" else (int(members),)
    played = 0
    while time.monotonic() < end:
        size = sizes[played % len(sizes)]
        directory = Path(tempfile.mkdtemp(prefix=f"faults-{seed}-"))
        click.echo(f"seed {seed}, {size} member(s) of etcd, {each:g} s of faults")
        history = asyncio.run(play(directory, seed=seed, for_s=each, members=size))
        click.echo(f"  {history.counts()}")
        if wrong := mistakes(history):
            click.echo(story(history))
            click.echo("\n".join(wrong[:20]))
            click.echo(f"{len(wrong)} mistakes; logs in {directory}; again with --seed {seed} --members {size}")
            sys.exit(1)
        seed, played = seed + 1, played + 1
    click.echo(f"{played} histories, no mistake")


if __name__ == "__main__":
    main()
