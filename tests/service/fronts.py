"""The service with fronts on CPU: python -m tests.service.fronts, with the flags of python -m service."""

import sys

from service.__main__ import main
from service.settings import Settings

# The processes that it starts import this file too, so that all of them agree.
Settings.has_fronts = property(lambda self: self.worker_count > 1)  # type: ignore[method-assign,assignment]

if __name__ == "__main__":
    sys.exit(main())
