"""Prefect flows: when and where the stages run. What they compute is in `nfk`, their order in `dvc.yaml`.

Prefect's settings are read when it is imported, so they are set here, before any module of this package
can import it. The environment wins.
"""

import os

# A new home directory takes longer than the default of 20 s
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "true")
# A server that is away for minutes, as while it is restarted, ends no run: 2 + 4 + ... + 256 s of tries
os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "8")
# nor does one that answers 500, as while its database is away: by itself Prefect's client gives up at the first
os.environ.setdefault("PREFECT_CLIENT_RETRY_EXTRA_CODES", "500,504")
