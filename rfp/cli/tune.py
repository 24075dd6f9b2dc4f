"""`rfp tune`: chooses R and F for a device and the sizes that its clients fetch."""

from __future__ import annotations

import sys

import click

from rfp import address as addresses
from rfp.cli import paradigms
from rfp.cli.options import DURATION_TYPE, Target, connected
from rfp.cli.text import grouped, short, table
from rfp.core import clock
from rfp.core.limits import LINE, SIZE_CLASSES
from rfp.errors import ConnectionFailed, InvalidArgument
from rfp.tools import tune as tuning

ROWS = 8  # choices shown


@click.command()
@click.option(
    "--value-size",
    multiple=True,
    type=click.IntRange(0),
    help="Size of a typical value in bytes; repeatable.  [default: sampled from the server]",
)
@click.option(
    "--process-time",
    type=DURATION_TYPE,
    default="100ns",
    show_default=True,
    help="Time that the server needs for a request.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.001, 10),
    default=0.05,
    show_default=True,
    help="Duration of each measurement in seconds.",
)
@click.option("--dry-run", is_flag=True, help="Print the choice without saving it.")
@connected
def tune(
    target: Target, value_size: tuple[int, ...], process_time: float, seconds: float, dry_run: bool
) -> None:
    """Measure this device and choose how clients fetch results.

    F is the number of bytes that the first READ fetches: shorter READs are faster, but a result
    that does not fit costs a second READ.  R is the number of failed fetches after which the server
    sends the result itself.  The choice is saved for all later clients of this user, which continue
    to adjust F to the responses that they receive.

    GETs by direct reads need neither: the command prints the cost of a GET by each paradigm.  Which
    one mode="auto" uses, each client measures when it connects.

    \b
    Examples:
      rfp tune                                     for the response sizes of the default server
      rfp tune --value-size 32 --value-size 1000   for these sizes, without a server
      rfp tune --address 'shm:///run/me/cache?rtt=2us' --value-size 32    for an emulated network
    """
    sizes = _given(value_size) if value_size else _sampled(target)
    place = target.address or addresses.default()
    steps = len(tuning.steps())
    with click.progressbar(length=steps, label="measuring", show_pos=True, file=sys.stderr) as bar:
        calibration = tuning.calibrate(place, seconds=seconds, progress=lambda _: bar.update(1))
    costs = paradigms.measure(place, seconds)
    choices = tuning.enumerate_choices(calibration, sizes, process_time * 1e9)
    best = choices[0]
    label = " (emulated)" if calibration.emulated else ""
    click.echo(
        f"device {calibration.device}{label}: a round trip of {calibration.trip * 1e6:.2f} us\n"
    )
    shown = [
        lines for lines in range(1, len(calibration.rates)) if lines in (1, 2, 4, 8, 12, 16, 24, 32)
    ]
    rows = [[grouped(lines * LINE), short(calibration.rates[lines])] for lines in shown]
    click.echo("\n".join(table(["F (bytes)", "READs/s"], rows, ">>")))
    click.echo()
    rows = [
        [f"{ns / 1000:g}", short(fetch), short(reply), f"{fetch / reply:.2f}"]
        for ns, fetch, reply in zip(
            calibration.times, calibration.fetch, calibration.reply, strict=True
        )
    ]
    click.echo(
        "\n".join(
            table(["server takes (us)", "fetch calls/s", "reply calls/s", "ratio"], rows, ">>>>")
        )
    )
    click.echo()
    rows = [[name, f"{cost * 1e6:.2f}"] for name, cost in costs.seconds.items()]
    click.echo("\n".join(table(["GET of 32 bytes by", "us"], rows, "<>")))
    click.echo(f'\nmode="auto" chooses: {costs.chosen}')
    click.echo(f"\nfetching is faster up to R = {calibration.most_retries} failed fetches")
    click.echo(f"the best of {len(choices)} pairs for {_say(sizes)}:\n")
    rows = [
        [str(choice.retries), str(choice.fetch), f"{choice.score / best.score:.3f}"]
        for choice in choices[:ROWS]
    ]
    click.echo("\n".join(table(["R", "F", "T (best = 1)"], rows, ">>>")))
    calibration.chosen = {"retries": best.retries, "fetch": best.fetch}
    kept = "not saved (--dry-run)" if dry_run else f"saved in {tuning.save(calibration)}"
    click.echo(f"\nchosen: R = {best.retries}, F = {best.fetch} bytes; {kept}")


def _given(values: tuple[int, ...]) -> list[int]:
    sizes = [0] * SIZE_CLASSES
    for value in values:
        sizes[tuning.lines(value)] += 1
    return sizes


def _sampled(target: Target) -> list[int]:
    """Return the sizes that the server's workers have returned so far."""
    try:
        with target.connect() as kv:
            kv.ping()
            sizes = list(kv.connection.figures(clock.deadline_in(target.timeout))["sizes"])
    except ConnectionFailed as error:
        why = Exception.__str__(error)
        raise ConnectionFailed(
            f"cannot sample response sizes: {why}", hint="give --value-size, or start a server"
        ) from None
    if len(sizes) != SIZE_CLASSES or sum(sizes) == 0:
        raise InvalidArgument(
            "cannot sample response sizes: the server has sent no responses yet",
            hint="give --value-size",
        )
    return sizes


def _say(sizes: list[int]) -> str:
    """Return a short description of the sizes."""
    total = sum(sizes)
    common = sorted(range(len(sizes)), key=lambda lines: -sizes[lines])[:3]
    parts = [
        f"{100 * sizes[lines] / total:.0f} % of {lines * LINE} bytes"
        for lines in sorted(common)
        if sizes[lines]
    ]
    return "responses: " + ", ".join(parts)
