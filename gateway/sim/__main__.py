"""`python -m gateway.sim`: the simulated provider by itself, for whoever wants a fake OpenAI upstream."""

from __future__ import annotations

import click
import trio

from gateway.config import Sim
from gateway.sim.server import serve_sim

DEFAULTS = Sim()


@click.command()
@click.option("--port", default=0, show_default="any free one", help="Port on 127.0.0.1.")
@click.option("--first-token-s", default=DEFAULTS.first_token_s, show_default=True, help="Seconds to the first token.")
@click.option("--token-gap-s", default=DEFAULTS.token_gap_s, show_default=True, help="Seconds between tokens.")
@click.option("--words-max", default=DEFAULTS.words_max, show_default=True, help="Most words of an answer.")
def main(port: int, first_token_s: float, token_gap_s: float, words_max: int) -> None:
    """Serve a simulated OpenAI provider until interrupted.

    \b
    Models are `words`, `echo`, and one for each fault: `fault-cut`, `fault-hang`, ...

    \b
    Example:
      python -m gateway.sim --port 9000
      curl -N http://127.0.0.1:9000/v1/chat/completions \\
        -d '{"model": "words", "stream": true, "messages": [{"role": "user", "content": "Hi"}]}'
    """  # noqa: D301 - click wants the backspace character itself.
    settings = Sim(first_token_s=first_token_s, token_gap_s=token_gap_s, words_max=words_max)
    try:
        trio.run(_run, settings, port)
    except* KeyboardInterrupt:
        pass
    except* OSError as group:
        raise click.ClickException(f"cannot listen on 127.0.0.1:{port}: {group.exceptions[0]}") from group


async def _run(settings: Sim, port: int) -> None:
    async with trio.open_nursery() as nursery:
        url: str = await nursery.start(lambda task_status: serve_sim(settings, port=port, task_status=task_status))
        click.echo(f"listening on {url}")


if __name__ == "__main__":
    main()
