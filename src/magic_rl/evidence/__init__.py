"""Evidence by the field's own means: its benchmarks, attacks, judges and defences, on any model that answers."""
