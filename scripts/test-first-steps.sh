#!/usr/bin/env bash
# Does what the README says, against a real broker (`taskpass dev`): its first steps, word by word, and with --with-agent the agent in
# Python, for which scripts/python-env.sh must have been run before.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bin=$(cd "${CARGO_TARGET_DIR:-target}/debug" && pwd)
audience=https://docs.example.org/mcp

work=$(mktemp -d)
broker=
clean_up() {
  [ -z "$broker" ] || { kill "$broker" 2>/dev/null && wait "$broker" 2>/dev/null; } || true
  rm -rf "$work"
}
trap clean_up EXIT

fail() {
  printf '    %s\n' "$*"
  cat "$work"/*.log 2>/dev/null || true
  exit 1
}

# Free ports; the first line on standard output says which.
(cd "$work" && exec "$bin/taskpass" dev --listen 127.0.0.1:0 --listen-ops 127.0.0.1:0 --json) >"$work/broker.out" 2>"$work/broker.log" &
broker=$!
for _ in $(seq 300); do
  [ -s "$work/broker.out" ] && break
  kill -0 "$broker" 2>/dev/null || fail "the broker did not start"
  sleep 0.1
done
port=$(sed -n 's#.*"broker": *"https://[^"]*:\([0-9]*\)".*#\1#p' "$work/broker.out" | head -n 1)
[ -n "$port" ] || fail "the broker does not say where it listens: $(cat "$work/broker.out")"

sed -n '/^```sh$/,/^```$/p' README.md | sed '/^```/d; /^export PATH=/d' >"$work/steps.sh"
grep -q 'task complete' "$work/steps.sh" || fail "the README has no first steps"
command -v openssl >/dev/null || sed -i.with '/^openssl/d' "$work/steps.sh"
code=0
(cd "$work" && PATH=$bin:$PATH bash -euo pipefail steps.sh) >"$work/steps.log" 2>&1 || code=$?
[ "$code" -eq 4 ] || fail "the README's first steps ended with $code instead of 4"
grep -q '^verdict *active' "$work/steps.log" && grep -q '^inactive' "$work/steps.log" || fail "no verdicts in the README's first steps"
echo "    the README's first steps do what it says"
[ "${1:-}" = --with-agent ] || exit 0

dev=$work/.taskpass
validate=("$bin/taskpass" token validate --as verifier --dir "$dev" --audience "$audience")
target/python-env/bin/python examples/agent.py --broker "localhost:$port" \
  --svid "$dev/identities/agent.pem" --svid-key "$dev/identities/agent.key" --bundle "$dev/bundles/broker.example.org.pem" \
  --audience "$audience" --rounds 5 --token-lifetime 4 -- "${validate[@]}" >"$work/agent.log" 2>&1 || fail "the agent failed"
minted=$(sed -n 's/^minted \([0-9a-f]*\),.*/\1/p' "$work/agent.log" | sort -u | wc -l)
[ "$minted" -ge 2 ] || fail "the agent did not mint again at half-life: $minted token(s)"
grep -q '^the last token is refused now$' "$work/agent.log" || fail "the token outlived its task"
task=$(sed -n 's/^began task //p' "$work/agent.log")
"$bin/taskpass" task get "$task" --as operator --dir "$dev" --json >"$work/task.log"
grep -qi completed "$work/task.log" || fail "the task is not completed"
echo "    the agent minted $minted tokens for task $task, and none of them outlived it"
