"""Stages that talk to a server, and the server that they share."""
