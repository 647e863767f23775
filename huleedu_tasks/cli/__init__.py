"""The namespace of tasks: db, env, services."""

from invoke.collection import Collection

from huleedu_tasks.cli import db, env, services

namespace = Collection()
for module in (db, env, services):
    namespace.add_collection(Collection.from_module(module))
