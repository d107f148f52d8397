# cloudMe. `make help` lists the targets that are supported; all others serve them and may change.

PREFIX = /usr/local
DESTDIR =
PYTHON = /usr/bin/python3

LIB = $(PREFIX)/lib/cloudme
VENV = $(DESTDIR)$(LIB)/venv
INSTALLED = $(VENV)/.installed
SHIPPED = $(wildcard README.rst) LICENSE setup.cfg pyproject.toml cloudme bin sbin templates completions docs
SOURCES = $(shell find $(SHIPPED) -type f ! -name '*.pyc')

# What the host has to bring: programs to run, packages of Debian's to be tested.
RUN_PROGRAMS = python3 python3-venv qemu-system-x86_64 qemu-img dnsmasq nft ip ssh mmdebstrap mke2fs sfdisk gpgv pasta newuidmap
TEST_PACKAGES = git make bash zsh fish shellcheck groff-base util-linux systemd systemd-container \
	openssh-server gpg gpg-agent slirp4netns ovmf swtpm swtpm-tools mtools dosfstools tmux rsync
TEST = tools/packages $(RUN_PROGRAMS) && tools/debian-packages $(TEST_PACKAGES) && python=$$(PYTHON=$(PYTHON) tools/test-python) && PATH=$${python%/*}:$$PATH $$python

.PHONY: all install uninstall demo demo-rootless test check unit contract net guest bench completions man schema format help
.SUFFIXES:

all: install

install: ## install everything that is missing, and the commands in /usr/local (or PREFIX=...): what `make` alone does
	tools/packages $(RUN_PROGRAMS)
	@$(MAKE) --no-print-directory $(INSTALLED)

$(INSTALLED): $(SOURCES) Makefile tools/links
	test -x $(VENV)/bin/pip && $(VENV)/bin/python -c pass || $(PYTHON) -m venv --clear $(VENV)
	tree=$$(mktemp -d) && trap 'rm -rf "$$tree"' EXIT && cp -a $(SHIPPED) "$$tree" && \
		$(VENV)/bin/python -m pip install -qq --disable-pip-version-check --upgrade "$$tree"
	$(if $(DESTDIR),sed -i 's|$(DESTDIR)$(LIB)|$(LIB)|' $$(grep -rlIF '$(DESTDIR)$(LIB)' $(VENV)/bin $(VENV)/pyvenv.cfg))
	DESTDIR=$(DESTDIR) tools/links make $(PREFIX)
	touch $@

uninstall: ## undo `make install`; Debian's packages, images and machines stay
	DESTDIR=$(DESTDIR) tools/links remove $(PREFIX)
	rm -rf $(DESTDIR)$(LIB)

demo: install ## from nothing to a configured group of machines, and away again
	PATH=$(PREFIX)/sbin:$(PREFIX)/bin:$$PATH examples/demo

demo-rootless: ## the same by an ordinary user: no right of root's is needed, but for packages that are missing
	tools/packages $(RUN_PROGRAMS)
	python=$$(PYTHON=$(PYTHON) tools/test-python) && PATH=$(CURDIR)/bin:$(CURDIR)/sbin:$${python%/*}:$$PATH examples/demo

test: ## all tests, from style to real guests
	$(TEST) -m pytest

check: ## the quick tests: style and unit
	$(TEST) -m pytest tests/style tests/unit

unit contract net guest: ## the tests of one level
	$(TEST) -m pytest tests/$@

bench: ## how long things take, as ratios; as root, on a machine that rests, a quarter of an hour
	for bench in bench/bench_*.py; do $(PYTHON) -m bench.$$(basename $$bench .py) || exit; done

completions: ## write completions/ anew from the programs' options
	$(PYTHON) -m tools.completions

man: ## write docs/man anew from the programs' options
	$(PYTHON) -m tools.manpage

schema: ## write docs/cloudme.schema.json and docs/homelab-file.md anew from the tables of keys
	$(PYTHON) -m tools.schema

format: ## let ruff mend what it can
	$(TEST) -m ruff check --fix

help: ## this list
	@sed -n 's/^\([a-z ]*\): .*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="	" read -r target said; do \
		printf '%-26s %s\n' "$$target" "$$said"; done
