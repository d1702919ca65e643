# Targets for people and for .ci/run. Everything is also an ordinary go command.
#
#   make build       bin/strata, static
#   make test        the full test run, with the number of tests at the end (SCRATCH=directory for what tests write)
#   make user-test   the same by root as an ordinary user
#   make demo        assemble a layered store out of this machine's programs and use it
#   make bench       strata against stock Nix, into doc/benchmarks.md (BENCHFLAGS='-run regexp -long-pairs 0 …')
#   make bench-smoke the same on small inputs, to see that both sides answer alike
#   make gobench     go test's benchmarks (BENCH=regexp, COUNT=n)
#   make lint        formatting, go vet, staticcheck, shellcheck if it is there
#   make race        the tests under the race detector, without the long ones
#   make fuzz        each fuzz target for FUZZTIME (default 5s)
#   make walks       the random walks by a way that is new each time (STEPS=n)
#   make layout      only the rules of the source tree
#   make test-trees  what make test gets from outside: stock Nix, the small corpus, an S3 server
#   make install     what a package would hold, below DESTDIR and PREFIX (default /usr)
#   make clean

GO       ?= go
BENCH    ?= .
COUNT    ?= 1
FUZZTIME ?= 5s
STEPS    ?= 1000
SCRATCH  ?=

# Those that take longest come first, so that at the end no processor waits for one of them, and
# there is one more at a time than there are processors, since tests wait for disks and programs.
PACKAGES = ./daemon ./cmd/strata ./stack ./builder ./store/... ./...
TESTSUM  = $(GO) run ./tools/testsum -p $$(($$(nproc) + 1)) -timeout 30m
# Where tests make their files; Go itself stays where it is.
SCRATCHED = $(if $(SCRATCH),env TMPDIR=$(SCRATCH))

REVISION := $(shell git describe --always --dirty --abbrev=12 2>/dev/null)
LDFLAGS  := $(if $(REVISION),-X main.revision=$(REVISION))

.PHONY: build stage install test user-test demo bench bench-smoke gobench lint fuzz walks race layout clean test-trees

# What is started twice for each build of a derivation is a small program of its own,
# and a part of strata. Without it, as by plain go build, strata is all in one.
STAGE = builder/sandbox/bin/stage

build: stage
	CGO_ENABLED=0 $(GO) build -trimpath -tags embed_stage -ldflags '$(LDFLAGS)' -o bin/strata ./cmd/strata

stage:
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-s -w' -o $(STAGE) ./builder/sandbox/stage

PREFIX ?= /usr
SHARE   = $(DESTDIR)$(PREFIX)/share
UNITS   = $(DESTDIR)$(PREFIX)/lib/systemd/system

install: build
	install -D -m 755 bin/strata $(DESTDIR)$(PREFIX)/bin/strata
	mkdir -p $(SHARE)/man/man1 && bin/strata man $(SHARE)/man/man1
	mkdir -p $(SHARE)/bash-completion/completions && bin/strata completion bash >$(SHARE)/bash-completion/completions/strata
	mkdir -p $(SHARE)/zsh/site-functions && bin/strata completion zsh >$(SHARE)/zsh/site-functions/_strata
	mkdir -p $(SHARE)/fish/vendor_completions.d && bin/strata completion fish >$(SHARE)/fish/vendor_completions.d/strata.fish
	install -D -m 755 contrib/lower/nix-collect-garbage-leased $(DESTDIR)$(PREFIX)/bin/nix-collect-garbage-leased
	mkdir -p $(UNITS)
	for u in contrib/systemd/*; do sed 's|/usr/bin/strata|$(PREFIX)/bin/strata|' "$$u" >"$(UNITS)/$${u##*/}"; done

test: build
	$(GO) run ./tools/testtrees -keep-going
	STRATA_BIN=$(CURDIR)/bin/strata $(TESTSUM) -count=1 -exec '$(SCRATCHED)' $(TESTFLAGS) $(PACKAGES)

user-test: build
	STRATA_BIN=$(CURDIR)/bin/strata $(TESTSUM) -count=1 -exec '$(SCRATCHED) $(CURDIR)/scripts/as-user.sh' $(TESTFLAGS) $(PACKAGES)

demo: build
	./scripts/demo.sh

bench: build
	$(GO) run ./tools/bench $(BENCHFLAGS)

bench-smoke: build
	$(GO) run ./tools/bench -smoke $(BENCHFLAGS)

gobench: build
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -count $(COUNT) ./...

lint: bin/staticcheck
	./scripts/lint.sh

bin/staticcheck: tools/lint/go.mod tools/lint/go.sum
	CGO_ENABLED=0 $(GO) build -C tools/lint -o $(CURDIR)/bin/staticcheck honnef.co/go/tools/cmd/staticcheck

# Without that setting each process, of which tests start many, waits a second at its end.
# The stages around builders are not race binaries, which take long to start.
race: stage
	STRATA_TEST_NO_SKIP= GORACE=atexit_sleep_ms=0 $(TESTSUM) -race -short -tags embed_stage $(PACKAGES)

fuzz:
	FUZZTIME=$(FUZZTIME) ./scripts/fuzz.sh

walks: build
	STRATA_TEST_SEED=new STRATA_TEST_STEPS=$(STEPS) STRATA_BIN=$(CURDIR)/bin/strata \
	$(GO) test -count=1 -v -timeout 2h -run '^(TestRandomWalk|TestProgramsOver)' ./stack ./store/lazy ./cmd/strata

layout:
	$(GO) test -count=1 .

test-trees:
	$(GO) run ./tools/testtrees

clean:
	rm -rf bin builder/sandbox/bin
