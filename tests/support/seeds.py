"""The one switch between new cases in every run and the same ones again."""

from typing import Final

SEED: Final = "FUZZ_SEED"
"""Environment variable: the seed of a run that failed, to have the same cases again."""
