"""The namespace of tasks: db, env, migrations, prod, services."""

import gc
import sys

# Invoke disables bytecode files, so that every run would compile this package and its libraries
# again. -B and PYTHONDONTWRITEBYTECODE stay effective.
sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)

from huleedu_tasks.cli.windows import require_posix  # noqa: E402  # likewise

require_posix()

from invoke.collection import Collection  # noqa: E402  # must come after the line above

from huleedu_tasks.cli import db, env, migrations, prod, services  # noqa: E402  # likewise

namespace = Collection()
for module in (db, env, migrations, prod, services):
    namespace.add_collection(Collection.from_module(module))

# What is loaded stays until the process ends: the garbage collector need not visit it, then or
# before. The default threshold of 700 objects costs a short command a twentieth of its time.
gc.freeze()
gc.set_threshold(10_000)
