"""What fits: legal layouts, decided from numbers alone, before anything starts."""
