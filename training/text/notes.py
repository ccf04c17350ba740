"""What was changed in data or looks wrong in it, counted and told once."""

from collections import Counter

from training.run.progress import tell


class Notes(Counter[str]):
    """How often something was changed or seen, by what it was."""

    def tell(self, name: str) -> None:
        """Say on standard error what was counted in the data of this name."""
        for sentence, count in self.items():
            if count:
                tell(f"{name}: {sentence}: {count:,}")
