"""A `tasks.py` whose process kills itself after a statement about databases."""

# DIES_AFTER is the number of statements after which the process kills itself.
DYING_TASKS = """\
import os
import signal

import asyncpg

from huleedu_tasks.cli import namespace

plain, left = asyncpg.Connection.execute, int(os.environ.get("DIES_AFTER", "0"))


async def execute(connection, query, *args, **options):
    global left
    done = await plain(connection, query, *args, **options)
    left -= " DATABASE " in query
    if left == 0 and " DATABASE " in query:
        os.kill(os.getpid(), signal.SIGKILL)
    return done


asyncpg.Connection.execute = execute
"""
