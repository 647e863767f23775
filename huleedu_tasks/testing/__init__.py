"""The pytest plugin: each test gets its service's database, copied from a template.

`service_database` makes a fixture for one service; the plugin has the fixture `huleedu_databases`
for several. Everything heavy is imported when a fixture is first used.
"""

from huleedu_tasks.testing.database import ServiceDatabase
from huleedu_tasks.testing.fixtures import Databases, service_database

__all__ = ["Databases", "ServiceDatabase", "service_database"]
