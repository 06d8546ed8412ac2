#!/bin/sh
# Tries the binaries in an emulated machine: both run, and the agent loads all its programs,
# publishes a table and says so.
set -eu
cd /package
./cofferdam --version
echo '{"cniVersion":"1.0.0"}' | CNI_COMMAND=VERSION ./cofferdam-cni
mkdir -p /etc/cofferdam/policies /var/lib/cofferdam
echo 'policies: [/etc/cofferdam/policies]' >/etc/cofferdam/config.yaml
./cofferdam agent --config /etc/cofferdam/config.yaml &
agent=$!
./cofferdam status --wait enforced --timeout 300s
kill "$agent"
wait "$agent"
echo 'trial: ok'
