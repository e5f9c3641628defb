# Chromium and what drives it, Debian's packages. Sourced by scripts/services.
# shellcheck shell=bash disable=SC2154

browser_is_installed() {
  command -v chromium >/dev/null && command -v chromedriver >/dev/null && chromium --version >/dev/null 2>&1
}

browser_install() {
  need chromium chromium
  need chromedriver chromium-driver
}

# browser_run --dir=D --port=P: the driver; browsers that it starts keep their files in the folder.
browser_run() {
  local dir='' port=''
  while [ $# -gt 0 ]; do
    case $1 in
      --dir=*) dir=${1#*=} ;;
      --port=*) port=${1#*=} ;;
      *) fail "browser: $1 is not understood" ;;
    esac
    shift
  done
  mkdir -p "$dir/tmp"
  TMPDIR=$dir/tmp HOME=$dir exec chromedriver --port="$port"
}

browser_is_ready() { grep -q 'was started successfully' "$1/log"; }

browser_start() {
  local port
  [ "$1" = 1 ] || fail "one driver is enough: it starts as many browsers as it is asked for"
  port=$(free_port)
  launch browser "$home/run/browser-1" --port="$port"
  echo "127.0.0.1:$port" >"$home/run/browser-1/address"
  await browser "$home/run/browser-1"
}

browser_env() { echo "WEBDRIVER_URL=http://$(cat "$1/address")"; }
