"""Evidence that others accept: their benchmarks, attacks, judges and defences, on any model that answers."""
