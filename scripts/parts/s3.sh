# S3: versitygw, a gateway on a plain folder, built by Go from its module. Sourced by scripts/services.
# shellcheck shell=bash disable=SC2154

s3_version=1.8.0
s3_binary=$home/versitygw-$s3_version/versitygw
# Nothing but this machine's tests can reach it.
s3_key=hotbook-tests
s3_secret=hotbook-tests-secret
s3_bucket=hotbook

s3_is_installed() { [ -x "$s3_binary" ]; }

s3_install() {
  command -v go >/dev/null || fail "go 1.24 or newer is needed to build versitygw $s3_version, the S3 server of the tests, \
and not here. Install Go (go.dev/dl) and put it on the PATH"
  say "building versitygw $s3_version: a minute or two, once"
  mkdir -p "$home/versitygw-build"
  GOBIN=$home/versitygw-build go install "github.com/versity/versitygw/cmd/versitygw@v$s3_version" >&2 ||
    fail "versitygw $s3_version could not be built; see above. It needs the Go module proxy"
  # Under its name only once it is whole.
  mv "$home/versitygw-build" "$home/versitygw-$s3_version"
}

# s3_run --dir=D --port=P [--host=ADDRESS] [--cert FILE --key FILE]: what versitygw itself understands is passed on.
s3_run() {
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
  # A folder at the top is a bucket.
  mkdir -p "$dir/data/$s3_bucket" "$dir/side"
  export ROOT_ACCESS_KEY=$s3_key ROOT_SECRET_KEY=$s3_secret
  exec "$s3_binary" --port "$host:$port" --health /health --quiet "${options[@]}" \
    posix --sidecar "$dir/side" "$dir/data"
}

s3_is_ready() {
  local address
  address=$(cat "$1/address")
  (exec 3<>"/dev/tcp/${address%:*}/${address#*:}") 2>/dev/null
}

s3_start() {
  local port
  [ "$1" = 1 ] || fail "one S3 is enough"
  port=$(free_port)
  mkdir -p "$home/run/s3-1"
  echo "127.0.0.1:$port" >"$home/run/s3-1/address"
  launch s3 "$home/run/s3-1" --port="$port"
  await s3 "$home/run/s3-1"
}

s3_env() {
  echo "AWS_ENDPOINT_URL_S3=http://$(cat "$1/address")"
  echo "AWS_ACCESS_KEY_ID=$s3_key"
  echo "AWS_SECRET_ACCESS_KEY=$s3_secret"
  echo "AWS_REGION=us-east-1"
  echo "HOTBOOK_S3_BUCKET=$s3_bucket"
}
