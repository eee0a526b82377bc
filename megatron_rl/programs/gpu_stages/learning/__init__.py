"""Stages of the learner: its layers, precisions, layouts, speed and memory."""
