#!/usr/bin/env bash
# Fetches two adventure games as Debian packages and makes running speech of their dialogue: recipes/dialogue/run.sh OUTPUT
set -euo pipefail
output=${1:?the folder to make}
pip install -q 'propack>=0.3'
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
(cd "$packages" && apt-get -q download flight-of-the-amazon-queen beneath-a-steel-sky)
for package in "$packages"/*.deb; do
  dpkg-deb -x "$package" "$packages/games"
done
python "$(dirname "$0")/make.py" "$packages/games/usr/share/scummvm" "$output"
