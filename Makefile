# `make demo` and `make test` need python3 (3.11 or newer) and nothing else.
VENV := .venv
BIN := $(VENV)/bin
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

# Installed uncompiled, for most of it is never imported: what is imported is compiled then, once.
unexport PYTHONDONTWRITEBYTECODE

# What runs on the oldest Python, too: a part of the suite for each part of the service, without drills, browsers,
# benchmarks, and processes of ours.
QUICK := $(addprefix tests/,intake outbound queue worker/test_faults.py worker/test_heartbeat.py web/test_charts.py \
	test_formatting.py web/test_template_filters.py web/test_prefix.py zendesk/test_signature.py targets/test_document.py alerts/test_restored.py \
	capture/test_attempt.py storage/test_disk.py system/test_flow.py system/test_structure.py)

.PHONY: demo up drill bench rehearse test test-oldest lint format lock dist tag clean

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

test: lint  ## all that CI runs; the tests wait more than they compute, and so they share two processors well
	$(BIN)/pytest --numprocesses 4 --maxschedchunk 1

test-oldest: $(VENV)/.ready  ## what is quick of it, on the oldest Python that is here, in an environment of its own
	@oldest=$$(for candidate in python3.11 python3.12 python3.13 /usr/bin/python3; do \
		$$candidate -c 'import sys; sys.version_info >= (3, 11) and print(sys.version_info.minor, sys.executable)' 2>/dev/null; \
	done | sort --numeric-sort | head --lines 1); \
	if [ -z "$$oldest" ] || [ "$${oldest%% *}" = "$$($(BIN)/python -c 'import sys; print(sys.version_info.minor)')" ]; then \
		echo "There is no older Python here than that of $(VENV): nothing was run on one."; exit 0; \
	fi; \
	$(BIN)/uv venv --quiet --clear --python "$${oldest#* }" $(VENV)-oldest && \
	$(BIN)/uv pip install --quiet --python $(VENV)-oldest --require-hashes --requirement requirements-dev.txt && \
	$(BIN)/uv pip install --quiet --python $(VENV)-oldest --no-deps --no-build-isolation --editable . && \
	$(VENV)-oldest/bin/python -m pytest --numprocesses 2 --quiet $(QUICK)

lint: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
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
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile --require-hashes --requirement requirements-dev.txt
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.bench: requirements-bench.txt $(VENV)/.ready
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile --require-hashes --requirement requirements-bench.txt
	@touch $@
