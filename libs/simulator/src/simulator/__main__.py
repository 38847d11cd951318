"""`python -m simulator`: settings, then serve until told to stop."""

import contextlib
import logging
import os
import sys

from simulator import settings
from simulator.app import create_app
from simulator.server import create_server, listen, url_of

logger = logging.getLogger("simulator")


def main() -> None:
    """Run the server."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    chosen = settings.read(sys.argv[1:], os.environ)
    try:
        listening = listen(chosen.host, chosen.port)
    except OSError as error:
        sys.exit(f"simulator cannot start: {chosen.host} port {chosen.port} cannot be listened on: {error.strerror}")
    with listening as listener:
        logger.info("every answer of this server is simulated: no model is called and nothing is billed")
        sys.stdout.write(f"simulator listening on {url_of(listener)}\n")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            create_server(create_app()).run(sockets=[listener])


if __name__ == "__main__":
    main()
