"""Which completions are in flight, how they are judged, and how groups become batches."""
