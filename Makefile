# make run    set up, listen, start the daemon at the first connection
# make test   set up, check the code, run the tests that fit into ten minutes on two cores
# make test-rest   run the others: variants, long recordings, every voice, packages, most of what needs a browser or boots a Debian
# make test-all   make test and make test-rest
# make dev    set up for development, with pre-commit's hooks
# make test-packages   build the packages for SUITE=trixie (noble, resolute), and test them in a booted system of it
# make test-attack   attack a running daemon; ATTACK_SCALE=20 tries twenty times as often
# make test-releases   try make run and the tests in booted systems of SUITES="bookworm trixie noble resolute"
# make deb    build the Debian packages for this release; SUITE=trixie (bookworm, noble, resolute) for another one
# make apt-repo   build them as a signed repository for apt
# make release VERSION=x.y.z   make the commit and the tag of a release, then its files
# make release-files   build the files of the release that is checked out: packages, repositories and sdist, in build/release
# make lint   check the code only
# make docs   build the documentation as a site in build/site
# make lock   write constraints.txt from the environment
# make lock-deb   write packaging/lock, the versions in the Debian packages

comma := ,
PYTHON ?= /usr/bin/python3
EXTRAS ?= kokoro,page,tools
# All tests run on this release; on others those that need neither a browser, nor a booted Debian, nor torch.
RELEASE := $(shell . /etc/os-release && echo $$ID-$$VERSION_ID)
CODENAME := $(shell . /etc/os-release && echo $$VERSION_CODENAME)
IS_WHOLE := $(filter debian-12,$(RELEASE))
TEST_EXTRAS := kokoro,hub,page,$(if $(IS_WHOLE),step-audio$(comma))tools,systemd,docs,dev
LISTEN ?= 127.0.0.1:7860
RUNTIME_DIR := $(if $(filter 0,$(shell id -u)),/run,$(or $(XDG_RUNTIME_DIR),$(CURDIR)/build))
SOCKET ?= $(RUNTIME_DIR)/stepaudiod.sock

VENV := .venv
BIN := $(VENV)/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
LOCKED := $(shell cat setup.cfg pyproject.toml constraints.txt Makefile packaging/lock/alone.in 2>/dev/null | sha256sum | cut -c1-12)
PACKAGES := ca-certificates curl python3 python3-venv
TEST_PACKAGES := $(PACKAGES) apt-utils bash-completion fish gpg gpg-agent iproute2 man-db python3-systemd systemd zsh $(if $(IS_WHOLE),\
  chromium chromium-driver fonts-noto-cjk lintian mmdebstrap systemd-container $(if $(shell command -v npm),,npm))
# So many processes; tests/conftest.py says which tests share one.
JOBS ?= 2
PARALLEL := -n $(JOBS)
IS_HERE := $(if $(IS_WHOLE),, and not systemd and not browser)
# The suites of make test-releases, on a machine that can boot them.
SUITES ?= bookworm trixie noble resolute

.PHONY: run dev test test-rest test-all test-packages test-attack test-releases deb docs lint lock audit clean
.SILENT: run test apt-repo

run: export STEPAUDIOD_CACHE_DIR ?= $(CURDIR)/build/cache
run: $(VENV)/.run-$(LOCKED)-$(subst $(comma),-,$(EXTRAS))
	mkdir -p build
	exec $(BIN)/python -m stepaudiod.activate --listen $(LISTEN) --listen $(SOCKET) --hint "$$(printf '%s\n' \
	  '' 'To hear it speak, in another terminal:' '' \
	  '  curl -sS --fail-with-body http://$(LISTEN)/v1/audio/speech -d '\''{"model": "tts-1", "voice": "alloy", "input": "Hello. I was asleep until you called."}'\'' -o hello.mp3' \
	  '' 'The page: http://$(LISTEN)/   The unix socket: $(SOCKET)   Stop: Ctrl-C')"

test: $(VENV)/.test-$(LOCKED) $(if $(IS_WHOLE),lint)
	$(if $(IS_WHOLE),,echo 'On $(RELEASE) the tests that need a browser, a booted Debian or torch are left out; Debian 12 runs them all.')
	$(BIN)/python -m pytest $(PARALLEL) -m 'not slow$(IS_HERE)' $(PYTEST)

test-rest: $(VENV)/.test-$(LOCKED)
	$(BIN)/python -m pytest $(PARALLEL) -m 'slow$(IS_HERE)' $(PYTEST)
	$(if $(IS_WHOLE),$(MAKE) test-packages SUITE=trixie)

test-packages: $(VENV)/.test-$(LOCKED)
	SUITE='$(SUITE)' $(BIN)/python -m pytest -s tests/packages $(PYTEST)

test-all: test test-rest

test-attack: $(VENV)/.test-$(LOCKED)
	$(BIN)/python -m pytest tests/attack $(PYTEST)

test-releases: $(VENV)/.test-$(LOCKED)
	SUITES='$(SUITES)' $(BIN)/python -m pytest -s tests/releases $(PYTEST)

dev: $(VENV)/.test-$(LOCKED)
	$(BIN)/pre-commit install

lint: $(VENV)/.test-$(LOCKED)
	$(BIN)/ruff format --check stepaudiod tests packaging
	$(BIN)/ruff check stepaudiod tests packaging
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.docs-$(LOCKED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

lock: $(VENV)/.test-$(LOCKED)
	$(BIN)/pip freeze --exclude stepaudiod --exclude systemd-python | grep -v ^nvidia- | sed 's/^\(torch==[^+]*\).*/\1/' > constraints.txt

BUILT = ./build/deb$(if $(SUITE),/$(SUITE))
DEB_PACKAGES := $(PACKAGES) bash-completion build-essential debhelper dh-python python3-pip python3-sdnotify python3-setuptools python3-systemd python3-wheel systemd

.PHONY: apt-repo lock-deb
deb:
	$(call install_packages,debian-archive-keyring mmdebstrap $(if $(SUITE),,$(DEB_PACKAGES)))
	packaging/$(if $(SUITE),deb-suite.sh $(SUITE) $(DEB_PACKAGES),deb.sh)
	@set -- $(BUILT)/stepaudiod-runtime-*.deb; printf '\nTo install them$(if $(SUITE),$(comma) on a machine with $(SUITE)):\n\n  sudo apt install %s\n\n' \
	  "$$([ $$# = 1 ] && echo '$(BUILT)/*.deb' || echo '$(BUILT)/stepaudiod_*.deb $(BUILT)/stepaudiod-voices_*.deb' \
	  '$(BUILT)/stepaudiod-runtime-lite_*.deb   # or another runtime')"

apt-repo: deb
	$(call install_packages,apt-utils gpg gpg-agent)
	packaging/apt-repo.sh build/apt $(or $(SUITE),$(CODENAME)) $(BUILT)/*.deb
	printf '\nOr to install them from the repository, on this machine:\n\n  sudo cp build/apt/stepaudiod-$(or $(SUITE),$(CODENAME)).sources /etc/apt/sources.list.d/stepaudiod.sources\n'
	printf '  sudo apt update && sudo apt install stepaudiod\n\n'

# Of these releases packages are published, signed with the key in this folder, for this URL.
RELEASE_SUITES ?= bookworm trixie noble resolute
RELEASE_KEY ?= $(HOME)/.local/share/stepaudiod-release-key
URL ?=

.PHONY: release release-files
release:
	packaging/release.sh '$(VERSION)'
	$(MAKE) release-files

release-files:
	$(call install_packages,$(DEB_PACKAGES) apt-utils git gpg gpg-agent)
	for suite in $(RELEASE_SUITES); do $(MAKE) deb SUITE=$$suite || exit 1; done
	packaging/release-files.sh '$(RELEASE_SUITES)' '$(RELEASE_KEY)' '$(URL)'

lock-deb:
	$(call install_packages,$(DEB_PACKAGES))
	packaging/lock.sh

# pip-audit has an environment of its own, since it isn't a part of anything; --strict fails if a package can't be looked up.
audit:
	$(call install_packages,$(PACKAGES))
	$(PYTHON) -m venv build/audit
	build/audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	sed -e '/^#/d; s/ .*//; s/+.*//; s/===/==/' packaging/lock/*.txt | sort -u > build/audit/locked.txt
	build/audit/bin/pip-audit --strict --progress-spinner off --no-deps --disable-pip --requirement build/audit/locked.txt

clean:
	rm -rf $(VENV) build dist

$(VENV)/.run-$(LOCKED)-$(subst $(comma),-,$(EXTRAS)):
	$(call install_packages,$(PACKAGES))
	$(call install_venv,$(EXTRAS))
	touch $@

$(VENV)/.test-$(LOCKED):
	$(call install_packages,$(TEST_PACKAGES))
	$(call install_venv,$(TEST_EXTRAS))
	touch $@

$(VENV)/.docs-$(LOCKED):
	$(call install_packages,$(PACKAGES))
	$(call install_venv,docs)
	touch $@

# For the extra `systemd`, Debian's python3-systemd is linked into the environment: building it from source would need a compiler
define install_venv
	$(PYTHON) -m venv $(VENV)
	$(if $(findstring systemd,$(1)),ln -sfn /usr/lib/python3/dist-packages/systemd /usr/lib/python3/dist-packages/systemd_python-* \
	  $(VENV)/lib/python3*/site-packages/)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt wheel setuptools
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --use-pep517 -c constraints.txt \
	  --config-settings editable_mode=compat -e '.[$(1)]'
	$(if $(or $(findstring kokoro,$(1)),$(findstring tools,$(1))),$(BIN)/pip install --quiet --disable-pip-version-check --no-deps \
	  --ignore-requires-python -c constraints.txt -r packaging/lock/alone.in)
	$(if $(findstring dev,$(1)),$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt openapi-python-client cyclonedx-python-lib)
	$(BIN)/python -m compileall -q stepaudiod
endef

# dpkg knows removed packages too, so their state counts
define install_packages
	[ $$(dpkg-query --show --showformat='$${db:Status-Status} $${Package}\n' $(1) 2>/dev/null | grep '^installed ' | sort -u | wc -l) \
	  = $(words $(sort $(1))) ] || \
	  { $(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $(1); }
endef
