"""Shards straight from the learner ranks that hold them to the server ranks that use them.

``publisher`` gives the orders, on rank 0; ``rank`` carries them out on every learner rank; and
``serving_plugin`` does so inside the servers. ``admission`` proves a server before it counts on it.
"""
