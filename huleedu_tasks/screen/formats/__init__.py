"""The forms of a report for pull requests and CI, as pure functions over its findings."""
