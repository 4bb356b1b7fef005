# `make demo` and `make test` need python3 (3.11 or newer) and nothing else.
VENV := .venv
BIN := $(VENV)/bin
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

PIP := $(BIN)/python -m pip --disable-pip-version-check
# Install the packages of a file. uv takes a quarter of the time, but ignores the configuration of pip, which may be needed.
install = sed -n '/^uv==/,/[^\\]$$/p' $(1) > $(VENV)/uv.txt && $(PIP) install --quiet --require-hashes --requirement $(VENV)/uv.txt && \
	$(BIN)/uv pip install --quiet --python $(VENV) --require-hashes --requirement $(1) || \
	$(PIP) install --quiet --no-compile --require-hashes --requirement $(1)

# Packages are installed uncompiled: most modules are never imported, and the others are compiled at the first import.
unexport PYTHONDONTWRITEBYTECODE

# The tests for the oldest Python: those that depend on the standard library, and one flow through the whole service.
OLDEST := $(addprefix tests/,system/test_flow.py system/test_structure.py outbound/test_transfer.py \
	outbound/test_content.py queue/test_arq_queue.py targets/test_document.py web/test_charts.py \
	test_formatting.py zendesk/test_signature.py)

# Four processes keep two processors busy: some tests wait. With more, statements wait too long. Each
# runs whole modules: tests/support/schedule.py.
PYTEST := $(BIN)/pytest --numprocesses 4 --dist loadscope

.PHONY: demo up drill bench rehearse test test-long test-oldest coverage lint lint-format lint-code lint-types lint-imports \
	checked compiled format lock dist tag clean

demo: $(VENV)/.ready  ## play a stand-in Zendesk against the whole service
	@exec $(BIN)/holdfast demo

up: $(VENV)/.ready  ## run the whole service on this machine
	@exec $(BIN)/holdfast up

drill: $(VENV)/.ready  ## hurt a whole Holdfast in every way, and count what it lost
	@exec $(BIN)/holdfast drill

bench: $(VENV)/.bench  ## measure Holdfast beside what else one would build; it needs Debian's wrk
	@exec $(BIN)/python -m benchmarks all

rehearse: $(VENV)/.ready  ## deploy, upgrade, roll back and restore as on Heroku, on this machine
	@exec $(BIN)/pytest -rP tests/system/test_rehearsal.py

test: checked  ## all that CI runs
	$(PYTEST)

test-long: checked  ## the same with ten times the examples of each property
	HOLDFAST_EXAMPLES=10 $(PYTEST)

coverage: $(VENV)/.ready  ## run the tests, and show which lines of service/ none of them reaches
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest --numprocesses 4 --dist loadscope
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

test-oldest: $(VENV)/.ready  ## a part of it, on the oldest Python that is here, in an environment of its own
	@oldest=$$(for candidate in python3.11 python3.12 python3.13 /usr/bin/python3; do \
		$$candidate -c 'import sys; sys.version_info >= (3, 11) and print(sys.version_info.minor, sys.executable)' 2>/dev/null; \
	done | sort --numeric-sort | head --lines 1); \
	if [ -z "$$oldest" ] || [ "$${oldest%% *}" = "$$($(BIN)/python -c 'import sys; print(sys.version_info.minor)')" ]; then \
		echo "There is no older Python here than that of $(VENV): nothing was run on one."; exit 0; \
	fi; \
	$(BIN)/uv venv --quiet --clear --python "$${oldest#* }" $(VENV)-oldest && \
	$(BIN)/uv pip install --quiet --python $(VENV)-oldest --require-hashes --requirement requirements-dev.txt && \
	$(BIN)/uv pip install --quiet --python $(VENV)-oldest --no-deps --no-build-isolation --editable . && \
	$(VENV)-oldest/bin/python -m pytest --numprocesses 2 --quiet $(OLDEST)

LINT := lint-types lint-imports lint-code lint-format
PARALLEL := $(MAKE) --no-print-directory --jobs 2 --output-sync

lint: $(VENV)/.ready
	@$(PARALLEL) $(LINT)

checked: $(VENV)/.ready
	@$(PARALLEL) $(LINT) compiled

# Compile the tests' modules once, beside mypy, which uses one processor; else each process of the tests compiles them.
compiled:
	@$(BIN)/pytest --collect-only --quiet > /dev/null

lint-format:
	$(BIN)/ruff format --check .

lint-code:
	$(BIN)/ruff check .

# A fresh clone reads no cache, and to write one takes a sixth of the processor time.
lint-types:
	$(BIN)/mypy $(if $(CI),--cache-dir=/dev/null)

lint-imports:
	$(BIN)/lint-imports

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(VENV)/.ready  ## take the newest versions that pyproject.toml allows
	$(COMPILE) --upgrade pyproject.toml --extra mongodb --extra sentry --output-file requirements.txt
	$(COMPILE) --upgrade pyproject.toml --extra local --extra mongodb --extra sentry --extra otel --group dev --constraint requirements.txt \
		--output-file requirements-dev.txt
	$(COMPILE) --upgrade --group bench --constraint requirements-dev.txt --output-file requirements-bench.txt

dist: $(VENV)/.ready  ## build a wheel and an archive of the sources
	$(BIN)/python -m hatchling build

tag: $(VENV)/.ready  ## name this commit by its version, which the CHANGELOG must have
	@version=$$($(BIN)/python -c "from service.telemetry.version import version; print(version())"); \
	grep -q "^## $$version " CHANGELOG.md && git tag --annotate "v$$version" --message "Holdfast $$version"

docs/errors.md: service/error_guide.py $(VENV)/.ready  ## write the list of error codes
	$(BIN)/python -m service.error_guide > $@

clean:
	rm -rf $(VENV) $(VENV)-oldest .holdfast .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/.ready: requirements-dev.txt pyproject.toml
	@python=""; for candidate in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3; do \
		if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			python=$$candidate; break; \
		fi; \
	done; \
	if [ -z "$$python" ]; then echo "Holdfast needs python3, 3.11 or newer" >&2; exit 1; fi; \
	echo "Making $(VENV) with $$($$python --version) ..."; \
	$$python -m venv --clear $(VENV)
	@$(call install,requirements-dev.txt)
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.bench: requirements-bench.txt $(VENV)/.ready
	@$(call install,requirements-bench.txt)
	@touch $@
