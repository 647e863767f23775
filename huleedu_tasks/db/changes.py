"""The changes of development databases: the stages of each command that writes."""

from dataclasses import replace

from huleedu_tasks.db.finish import EXPECT_WRITES, FINISH, KEEP
from huleedu_tasks.db.migrate import REQUIRE_DATABASE, migrate_to, preview_to
from huleedu_tasks.db.prepare import COMPLETE, FILL, SEED_IF_NEEDED
from huleedu_tasks.db.prove import PROVE, PROVE_SERVER
from huleedu_tasks.db.recreate import RECREATE
from huleedu_tasks.db.recreate_server import (
    EXAMINE_INIT_SCRIPTS,
    PROVE_RECREATION,
    RECREATE_SERVER,
)
from huleedu_tasks.db.run import REVISIONS, Change
from huleedu_tasks.db.seed import REQUIRE_HEAD, SEED
from huleedu_tasks.db.start import START, START_AGAIN
from huleedu_tasks.migrations import runner

BUILDING = (migrate_to(runner.HEAD), SEED)
RESET = Change(
    command="db.reset",
    would="recreate {database}, migrate {database} to head and seed it",
    proving=(START, PROVE, EXAMINE_INIT_SCRIPTS, PROVE_RECREATION),
    changing=(RECREATE, *BUILDING),
    ending=KEEP,
    is_whole=True,
    columns=REVISIONS,
)
RESET_SERVERS = replace(
    RESET,
    would="recreate the server's whole data, migrate {database} to head and seed it",
    proving=(PROVE_SERVER,),
    changing=(RECREATE_SERVER, *BUILDING),
)
SEED_ONLY = Change(
    command="db.seed",
    would="seed {database}",
    proving=(START, PROVE),
    changing=(REQUIRE_HEAD, EXPECT_WRITES, SEED),
    ending=FINISH,
)
PREPARE = Change(
    command="db.prepare",
    would="prepare {database}",
    proving=(START_AGAIN, PROVE),
    changing=(FILL, EXPECT_WRITES, migrate_to(runner.HEAD), SEED_IF_NEEDED),
    ending=COMPLETE,
    columns=REVISIONS,
)


def migration(target: str) -> Change:
    """Return the change that migrates to a revision."""
    return Change(
        command="db.migrate",
        would=f"migrate {{database}} to {target}",
        proving=(START, PROVE),
        changing=(REQUIRE_DATABASE, EXPECT_WRITES, migrate_to(target)),
        ending=FINISH,
        columns=REVISIONS,
    )


def preview(target: str) -> Change:
    """Return the change that reports the SQL of a migration to a revision, and runs none."""
    return Change(
        command="db.migrate",
        would="",
        proving=(),
        changing=(preview_to(target),),
        columns=REVISIONS,
    )
