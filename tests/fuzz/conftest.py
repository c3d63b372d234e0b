"""How many cases a fuzz test tries: a few in the suite, `make fuzz EXAMPLES=10000` for long."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "fuzz",
    max_examples=int(os.environ.get("EXAMPLES", "40")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
