#!/bin/sh
# Writes requirements.lock anew: every dependency with its hashes, no index address, for Python 3.11 to 3.13.
set -eu
cd "$(dirname "$0")/.."
skip=
for member in common simulator gateway agent-worker persister billing; do skip="$skip --no-emit-package laneway-$member"; done
# shellcheck disable=SC2086
.laneway/uv/bin/uv pip compile --quiet pyproject.toml --group deploy --group test --group bench --universal \
    --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header $skip -o requirements.lock
