"""Data sets: where clips come from, and how they become batches."""
