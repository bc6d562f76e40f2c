"""MAGIC: adversarial co-evolution of an attacker and a defender language model."""

__version__ = "0.1.0"
