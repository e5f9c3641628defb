# Redis, Debian's package. Sourced by scripts/services.
# shellcheck shell=bash disable=SC2154

redis_version_min=7

redis_is_installed() {
  local version
  command -v redis-server >/dev/null || return 1
  version=$(redis-server --version | sed -n 's/.* v=\([0-9]*\).*/\1/p')
  [ "${version:-0}" -ge $redis_version_min ]
}

redis_install() {
  need redis-server redis-server
  redis_is_installed || fail "redis-server $redis_version_min or newer is needed, this is: $(redis-server --version)"
}

# redis_run --dir=D --port=P [--host=ADDRESS] [REDIS-OPTION VALUE]..: what Redis itself understands, such as --requirepass, is passed on.
redis_run() {
  local dir='' host=127.0.0.1 port='' options=()
  while [ $# -gt 0 ]; do
    case $1 in
      --dir=*) dir=${1#*=} ;;
      --host=*) host=${1#*=} ;;
      --port=*) port=${1#*=} ;;
      *) options+=("$1") ;;
    esac
    shift
  done
  mkdir -p "$dir"
  # Elsewhere than on loopback it would take nobody without a password.
  [ "$host" = 127.0.0.1 ] || options+=(--protected-mode no)
  exec redis-server --port "$port" --bind "$host" --save '' --appendonly yes --dir "$dir" "${options[@]}"
}

redis_is_ready() { grep -q 'Ready to accept connections' "$1/log"; }

redis_start() {
  local port
  [ "$1" = 1 ] || fail "one Redis is enough"
  port=$(free_port)
  launch redis "$home/run/redis-1" --port="$port"
  echo "127.0.0.1:$port" >"$home/run/redis-1/address"
  await redis "$home/run/redis-1"
}

redis_env() {
  local address
  address=$(cat "$1/address")
  echo "REDIS_HOST=${address%:*}"
  echo "REDIS_PORT=${address#*:}"
}
