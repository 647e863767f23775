"""What the fixtures of the plugin give to a test."""

import pytest

from tests.support.histories import root_and_two
from tests.support.monorepo import Monorepo
from tests.support.pytest_runs import passes, run_pytest, write_tests

COUNT = """
import asyncio


def count(database, table="note"):
    async def ask():
        async with database.connect() as connection:
            return await connection.fetchval(f"SELECT count(*) FROM {table}")

    return asyncio.run(ask())


def add(database):
    async def insert():
        async with database.connect() as connection:
            await connection.execute("INSERT INTO note SELECT count(*), 'text' FROM note")

    asyncio.run(insert())
"""


@pytest.fixture(scope="module", autouse=True)
def helpers(prepared: Monorepo) -> None:
    prepared.write("tests/helpers.py", COUNT)


def test_each_test_has_an_empty_database_at_head(prepared: Monorepo) -> None:
    ran = passes(
        prepared,
        """
        import pytest
        from helpers import add, count

        names = set()

        @pytest.mark.parametrize("number", range(5))
        def test_one(alpha, number):
            assert count(alpha) == 0
            assert count(alpha, "alembic_version") == 1
            add(alpha)
            names.add(alpha.name)
            assert len(names) == number + 1
        """,
    )
    assert ran.counts == {"passed": 5}


def test_the_variable_of_the_service_has_the_url_during_the_test_only(prepared: Monorepo) -> None:
    passes(
        prepared,
        """
        import os
        import sys

        sys.path.insert(0, "services/alpha_service")
        from config import database_url

        def test_code_under_test_uses_the_database(alpha):
            assert database_url() == alpha.url
            assert alpha.name in alpha.url
            assert os.environ["ALPHA_SERVICE_DATABASE_URL"] == alpha.url
            assert os.environ["HULEEDU_ENVIRONMENT"] == "testing"

        def test_later():
            assert not {"ALPHA_SERVICE_DATABASE_URL", "HULEEDU_ENVIRONMENT"} & os.environ.keys()
        """,
    )


def test_variables_with_parts_of_the_url_have_those_of_the_database(monorepo: Monorepo) -> None:
    (alpha, *_) = monorepo.services
    parts = {"DB_HOST": "{host}", "DB_PORT": "{port}", "DB_NAME": "{database}", "LEVEL": "3"}
    monorepo.register({**alpha, "alembic_url_variable": "MIGRATION_URL", "environment": parts})
    env = monorepo.read("services/alpha_service/config.py")
    monorepo.write(
        "services/alpha_service/config.py",
        env.replace("ALPHA_SERVICE_DATABASE_URL", "MIGRATION_URL"),
    )
    passes(
        monorepo,
        """
        import os

        def test_parts(alpha):
            assert os.environ["MIGRATION_URL"] == alpha.url
            assert os.environ["DB_NAME"] == alpha.name
            assert os.environ["DB_HOST"] == "localhost"
            assert f":{os.environ['DB_PORT']}/" in alpha.url
            assert "LEVEL" not in os.environ
        """,
    )


def test_a_database_of_a_wider_scope_is_shared(prepared: Monorepo) -> None:
    passes(
        prepared,
        """
        from helpers import add, count

        class TestOne:
            def test_first(self, by_class, by_module):
                add(by_class)
                add(by_module)

            def test_second(self, by_class, by_module):
                assert (count(by_class), count(by_module)) == (1, 1)

        def test_outside(by_class, by_module):
            assert (count(by_class), count(by_module)) == (0, 1)
        """,
        conftest="""
        from huleedu_tasks.testing import service_database

        by_class = service_database("alpha", scope="class")
        by_module = service_database("alpha", scope="module")
        """,
    )


def test_seeds_are_applied_on_request(prepared: Monorepo) -> None:
    passes(
        prepared,
        """
        from helpers import count

        def test_both(alpha, seeded):
            assert (count(alpha), count(seeded)) == (0, 2)
        """,
        conftest="""
        from huleedu_tasks.testing import service_database

        alpha = service_database("alpha")
        seeded = service_database("alpha", seeded=True)
        """,
    )


def test_a_test_uses_several_services(prepared: Monorepo) -> None:
    passes(
        prepared,
        """
        import os
        from helpers import add, count

        def test_two(huleedu_databases):
            alpha, beta = huleedu_databases["alpha"], huleedu_databases["beta"]
            add(alpha)
            assert (count(alpha), count(beta)) == (1, 0)
            assert huleedu_databases["alpha"] is alpha
            assert os.environ["BETA_SERVICE_DATABASE_URL"] == beta.url

        def test_shorter_name(databases):
            assert count(databases["alpha"]) == 0
        """,
        conftest="",
    )


def test_services_that_share_a_database_share_that_of_a_test() -> None:
    with root_and_two() as monorepo:
        passes(
            monorepo,
            """
            import os

            import psycopg

            def test_one(stock, huleedu_databases):
                with psycopg.connect(stock.dsn) as connection:
                    count = "SELECT (SELECT count(*) FROM orders.item), count(*) FROM tenant"
                    assert connection.execute(count).fetchone() == (0, 0)
                assert os.environ["ORDERS_SERVICE_DATABASE_URL"] == stock.url

            def test_all(huleedu_databases):
                assert huleedu_databases["orders"] is huleedu_databases["root"]
            """,
            conftest="""
            from huleedu_tasks.testing import service_database

            stock = service_database("stock")
            """,
        )


def test_a_service_that_the_test_does_not_request_has_no_database(prepared: Monorepo) -> None:
    passes(
        prepared,
        """
        import os

        import psycopg
        import pytest

        def test_one(alpha, monkeypatch):
            url = os.environ["BETA_SERVICE_DATABASE_URL"].replace("+asyncpg", "")
            with pytest.raises(psycopg.OperationalError, match="not_requested_by_this_test_beta"):
                psycopg.connect(url)

        def test_a_variable_that_is_set_is_kept(monkeypatch, request):
            monkeypatch.setenv("BETA_SERVICE_DATABASE_URL", "own")
            request.getfixturevalue("alpha")
            assert os.environ["BETA_SERVICE_DATABASE_URL"] == "own"

        def test_both(alpha, databases):
            beta = databases["beta"]
            assert os.environ["ALPHA_SERVICE_DATABASE_URL"] == alpha.url
            assert os.environ["BETA_SERVICE_DATABASE_URL"] == beta.url
        """,
    )


def test_engines_of_sqlalchemy_connect_to_the_database(prepared: Monorepo) -> None:
    passes(
        prepared,
        """
        import asyncio
        from sqlalchemy import text

        def test_synchronous(alpha):
            with alpha.engine().begin() as connection:
                assert connection.scalar(text("SELECT current_database()")) == alpha.name

        def test_asynchronous(alpha):
            engine = alpha.async_engine()

            async def ask():
                async with engine.begin() as connection:
                    return await connection.scalar(text("SELECT current_database()"))

            # Each has an event loop of its own.
            assert [asyncio.run(ask()), asyncio.run(ask())] == [alpha.name, alpha.name]
        """,
    )


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_asynchronous_tests_use_the_database_in_their_own_loop(
    prepared: Monorepo, mode: str
) -> None:
    passes(
        prepared,
        """
        import pytest
        import pytest_asyncio

        @pytest_asyncio.fixture
        async def connection(alpha):
            async with alpha.connect() as opened:
                yield opened

        @pytest.mark.asyncio
        async def test_one(connection):
            assert await connection.fetchval("SELECT count(*) FROM note") == 0
        """,
        "-o",
        f"asyncio_mode={mode}",
    )


def test_connections_that_a_test_leaves_open_are_ended(prepared: Monorepo) -> None:
    passes(
        prepared,
        """
        import psycopg

        opened = []

        def test_leaves_a_transaction_open(alpha):
            opened.append(psycopg.connect(alpha.dsn))
            opened[0].execute("LOCK TABLE note")

        def test_next(alpha, other):
            with psycopg.connect(alpha.dsn) as connection:
                assert connection.execute("SELECT count(*) FROM note").fetchone() == (0,)
        """,
        conftest="""
        from huleedu_tasks.testing import service_database

        alpha = service_database("alpha")
        other = service_database("beta", scope="session")
        """,
    )


def test_an_unknown_service_is_an_error_with_the_closest_name(prepared: Monorepo) -> None:
    write_tests(
        prepared,
        "def test_one(alpha):\n    pass\n",
        conftest="""
        from huleedu_tasks.testing import service_database

        alpha = service_database("alhpa")
        """,
    )
    ran = run_pytest(prepared)
    assert ran.code == 1
    assert "No service is named 'alhpa'" in ran.out
    assert "[service-unknown]" in ran.out
    assert "During handling" not in ran.out


def test_the_report_names_provider_server_and_templates(prepared: Monorepo) -> None:
    test = "def test_one(alpha):\n    pass\n"
    passes(prepared, test)
    ran = passes(prepared, test)
    assert "service databases: embedded (HULEEDU_PROVIDER=embedded" in ran.out
    assert "PostgreSQL " in ran.out
    assert "service databases: 1 database; templates: alpha valid" in ran.out
    again = passes(prepared, test, "--huleedu-fresh")
    assert "templates: alpha rebuilt: --fresh" in again.out
