"""The pytest plugin with databases in containers."""

from tests.docker.test_reset import INIT_SCRIPT
from tests.support.docker import SCRIPTS, new_docked
from tests.support.pytest_runs import of_plugin, passes

SCHEMA = """
import psycopg
import pytest

@pytest.mark.parametrize("number", range(2))
def test_one(alpha, number):
    with psycopg.connect(alpha.dsn) as connection:
        assert connection.execute("SELECT count(*) FROM note").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM legacy.kept").fetchone() == (5,)
"""


def test_a_container_is_started_and_its_init_scripts_are_respected() -> None:
    with new_docked("alpha", mounts=[f"./init.sql:{SCRIPTS}/init.sql:ro"]) as docked:
        docked.write("init.sql", INIT_SCRIPT)
        assert "alpha rebuilt" in passes(docked, SCHEMA).out
        lives = docked.lives()
        assert "templates: alpha valid" in passes(docked, SCHEMA).out
        assert docked.lives() == lives
        assert of_plugin(docked) == []
        # The developer's own database is as the init scripts have left it.
        ran = docked.invoke("db.reset")
        assert ran.code == 0, ran.err
        assert docked.lives() == lives
