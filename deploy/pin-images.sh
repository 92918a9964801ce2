#!/bin/sh
# Asks the registry for the digests of the images that Dockerfile and docker-compose.yaml name by version, and writes
# them into docker-compose.override.yaml, which Compose reads by itself. Call it again after an update.
set -eu
cd "$(dirname "$0")/.."
file=docker-compose.override.yaml
if [ -e "$file" ] && ! grep -q '^# Made by make pin-images' "$file"; then
    echo "$file is yours: move it away first, and add its lines again afterwards" >&2
    exit 1
fi

pinned() {
    digest=$(docker buildx imagetools inspect "$1" --format '{{.Manifest.Digest}}')
    case $digest in
        sha256:*) echo "$1@$digest" ;;
        *) echo "there is no digest of $1: $digest" >&2; exit 1 ;;
    esac
}

python=$(sed -n 's/^ARG PYTHON_IMAGE=//p' Dockerfile)
postgres=$(sed -n 's/^ *image: \(postgres:.*\)$/\1/p' docker-compose.yaml | sort -u)
python=$(pinned "$python")
postgres=$(pinned "$postgres")
cat > "$file.new" <<END
# Made by make pin-images
services:
  password:
    image: $postgres
  postgres:
    image: $postgres
  tidegate:
    build:
      args:
        PYTHON_IMAGE: $python
  demo:
    build:
      args:
        PYTHON_IMAGE: $python
END
mv "$file.new" "$file"
echo "$file pins $python and $postgres"
