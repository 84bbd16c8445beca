#!/usr/bin/env bash
# Shows, by running it, that a study of three sites needs no address outside this machine: kits, the coordinator, the
# sites, a run and the check of its ledger, all in a network namespace that has the loopback interface alone.
# Usage: scripts/netns.sh [FOLDER] (an empty one; default: a new one that is removed at the end).
# Needs: the environment with privae[federated] active; unshare and ip, as any user who may make user namespaces.
# Takes two to five minutes on two cores. No test runs it.
set -euo pipefail

if [ "${1:-}" != inside ]; then
  folder=${1:-}
  if [ -z "$folder" ]; then
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
  fi
  # privacy: what follows is in namespaces of its own: no interface leads out, and no process outlives the script
  unshare --map-root-user --net --pid --fork --mount-proc --kill-child "$0" inside "$folder"
  exit
fi

cd "$2"
ip link set lo up
# NVFlare's client asks the kernel which address of its own would lead there (a UDP socket that connects, and sends
# nothing); it is answered here, so that below every other look for an outside address is counted
ip route add 10.255.255.255 dev lo

# say TEXT: what happens now, and after how long
say() { printf '%4d s  %s\n' "$SECONDS" "$*"; }

# fail TEXT: end with a reason, and with what the participants logged last
fail() {
  echo "netns: $*" >&2
  tail -n 5 kits/*/start.log >&2 2>/dev/null || true
  exit 1
}

# lost: how often anything here, of IPv4 or IPv6, looked for an address that no route leads to; the kernel counts
lost() {
  awk '
    $1 == "Ip:" && !column { for (i = 2; i <= NF; i++) if ($i == "OutNoRoutes") column = i; next }
    $1 == "Ip:" { sum += $column }
    $1 == "Ip6OutNoRoutes" { sum += $2 }
    END { print sum + 0 }
  ' /proc/net/snmp /proc/net/snmp6
}

up=$(ip -o link show up | cut -d: -f2 | xargs)
[ "$up" = lo ] || fail "these interfaces are up: $up"
say "interfaces that are up: $up"
before=$(lost)
if timeout 5 bash -c 'exec 3<>/dev/tcp/192.0.2.1/80' 2>/dev/null; then fail "an outside address answers"; fi
[ "$(lost)" -gt "$before" ] || fail "the kernel does not count what finds no route here"
say "an outside address is not reached, and the attempt is counted"
before=$(lost)

say "three sites with 2,000 packaged census rows each"
python3 - <<'PYTHON'
from pathlib import Path

from privae.data.examples import load_table

people, schema = load_table()
schema.save(Path("people.schema.toml"))
for place, name in enumerate(("berlin", "lyon", "oslo")):
    people[place : 6000 : 3].to_csv(f"{name}.csv", index=False)
PYTHON
cat >study.toml <<'TOML'
name = "census"
plan = "plan.toml"
schema = "people.schema.toml"
min_sites = 2
dropouts = 1
colluders = 0

[sites]
berlin = ""
lyon = ""
oslo = ""
TOML
privae plan people.schema.toml --epsilon 3 --rows 6000 -o plan.toml --quiet
privae federated init study.toml --host localhost --port 8002 --quiet
for site in berlin lyon oslo; do
  mv "$site.csv" "kits/$site/people.csv"
  printf 'data = "people.csv"\nmax_epsilon = 3\nmin_sites = 2\n' >"kits/$site/local/site.toml"
done

say "start.sh of the coordinator and of each site"
for kit in coordinator berlin lyon oslo; do
  "kits/$kit/startup/start.sh" >/dev/null
done

say "privae federated run"
privae federated run plan.toml --kit kits/admin -o results || fail "the run ended without a model"

say "anybody checks the ledger, and the model is used"
privae ledger verify results/ledger
privae sample results/model.privae -n 5 -o sample.csv --quiet
[ "$(wc -l <sample.csv)" = 6 ] || fail "five rows were to be sampled"
for site in berlin lyon oslo; do
  cmp results/model.privae kits/"$site"/privae/*/model.privae || fail "$site keeps another model"
done

[ "$(lost)" = "$before" ] || fail "something looked for an outside address, $(($(lost) - before)) times"
say "nothing looked for an address outside: it all went over loopback"
