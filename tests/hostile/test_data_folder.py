"""The command line beside a serving gateway: both work on one database, and neither may take it from the other."""

from __future__ import annotations

from pathlib import Path

import trio

from tests.hostile.gateway import Target, assert_up, chat_body


async def test_a_command_leaves_the_serving_process_its_database(clear: Target) -> None:
    """A process that opens and closes the file by hand drops its own locks; the next command would delete the WAL."""
    done = await trio.to_thread.run_sync(clear.process.command, "keys", "list")
    assert done.returncode == 0, done.stderr
    files = [str(link.readlink()) for link in Path(f"/proc/{clear.process.pid}/fd").iterdir()]  # noqa: ASYNC240 - proc
    assert not [name for name in files if name.endswith(" (deleted)") and "gateway.db" in name]
    before = clear.records()
    answer = await clear.lanes[0].ask(clear.ask(chat_body("h/good")))
    assert answer.status == 200
    with trio.fail_after(3):
        while clear.records() == before:  # noqa: ASYNC110 - another process
            await trio.sleep(0.02)
    await assert_up(clear)
