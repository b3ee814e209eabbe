"""The applications: how each is started, and what is checked."""

SUBJECTS = {}
