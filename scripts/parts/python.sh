# Python with the packages of the tests' foreign clients, in an environment of its own. No server: `run python SCRIPT ARG..`.
# Sourced by scripts/services.
# shellcheck shell=bash disable=SC2154

python_packages="confluent-kafka==2.16.1 grpcio-tools==1.85.1 grpcio-reflection==1.85.1"
python_home=$home/python

python_is_installed() { [ "$(cat "$python_home/packages" 2>/dev/null)" = "$python_packages" ]; }

python_install() {
  need python3 python3
  rm -rf "$python_home"
  python3 -m venv "$python_home" >&2 || {
    need_python_venv
    python3 -m venv "$python_home" >&2
  } || fail "python3 makes no virtual environment. Install the package python3-venv"
  # shellcheck disable=SC2086
  "$python_home/bin/pip" install -q --disable-pip-version-check $python_packages >&2 ||
    fail "$python_packages could not be fetched by pip; see above. It needs the Python package index"
  echo "$python_packages" >"$python_home/packages"
}

need_python_venv() {
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
  rm -rf "$python_home"
  apt_install python3-venv || { apt-get update -qq >&2 && apt_install python3-venv; }
}

# python_run SCRIPT ARG..
python_run() { exec "$python_home/bin/python" "$@"; }

python_is_ready() { return 0; }

python_start() { fail "python is no server: scripts/services run python SCRIPT"; }

python_env() { return 0; }
