"""How fast the tasks are on this machine: `python -m benchmarks`; see docs/performance.md."""
