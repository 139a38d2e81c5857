#!/usr/bin/env bash
# Run as root while the image is built. A volume that is mounted here takes over its owner: without this it
# would be root's, and our processes, which are not root, could not write to it.
set -euo pipefail
install -d -o bentoml -g bentoml /home/bentoml/shop
