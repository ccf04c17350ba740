"""Changes and suspicious values of data, counted and reported once."""

from collections import Counter

from training.run.progress import tell


class Notes(Counter[str]):
    """How often something was changed or seen, by its description."""

    def tell(self, name: str) -> None:
        """Print the counts for the data of this name on standard error."""
        for sentence, count in self.items():
            if count:
                tell(f"{name}: {sentence}: {count:,}")
