"""Stages of a run as launchers and the learner see them: which is on, and when it is over."""
