"""Weight updates of running SGLang servers: broadcast in flight, or through a folder.

``collective`` and ``disk`` are twins behind ``protocols.WeightPublisher``; ``admin`` speaks to one
server, ``fleet`` to all at once, ``group`` owns the broadcast and ``bucketing`` cuts the stream.
"""
