"""The documents agree with the code: links lead somewhere, and commands, settings and error codes exist."""

import ast
import re
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import click
import pytest
from pydantic_core import PydanticUndefined

from service.cli.main import main
from service.config.settings import Settings
from service.error_guide import GROUPS, action_on, markdown
from service.postgres.alert_tables import CAUSES
from service.web.api.docs import API
from tests.conftest import ROOT

DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md", ".github/**/*.md")
    for path in ROOT.glob(pattern)
)
# The operators' documents; the CHANGELOG also names removed things.
GUIDES = [path for path in DOCUMENTS if path.name != "CHANGELOG.md"]
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]

# Whole codes that aiohttp's own errors become.
_OF_HTTP = {status.name.lower() for status in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED)}
_CODE = re.compile(r"[a-z]+(_[a-z]+)*")
_RAISED = {"Rejected": 1, "problem": 1, "Transient": 0, "Permanent": 0, "Unreadable": 0, "kind": 0}


# ── links


def prose(text: str) -> str:
    """Return a document without its blocks of code, in which nothing is a link."""
    return re.sub(r"^( *)```.*?^\1```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """Return the targets of links into a document: its headings, as a forge writes them, and its own anchors."""
    found: set[str] = set(re.findall(r'<a id="([^"]+)"', text))
    for heading in re.findall(r"^#+ +(.+?) *$", prose(text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number = next(n for n in range(100) if (f"{slug}-{n}" if n else slug) not in found)
        found.add(f"{slug}-{number}" if number else slug)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_link_of_a_document_leads_to_something(name: str) -> None:
    path = ROOT / name
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        file = (path.parent / place).resolve() if place else path
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file.read_text())):
            broken.append(target)

    assert broken == []


def test_every_document_is_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text()
    documents = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}

    assert {name for name in documents if f"]({name})" not in index} == set()


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 900


# ── commands

CONTEXT = click.Context(main)


def commands(group: click.Command = main, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield words
    if isinstance(group, click.Group):
        for name in group.list_commands(CONTEXT):
            command = group.get_command(CONTEXT, name)
            assert command
            yield from commands(command, (*words, name))


def command(words: list[str]) -> click.Command | None:
    """Follow words as far as they name commands; None if a group does not know one."""
    found: click.Command = main
    for word in words:
        if not isinstance(found, click.Group):
            break
        named = found.get_command(CONTEXT, word)
        if named is None:
            takes_words = found.invoke_without_command and not re.fullmatch("[a-z]+", word)
            return found if takes_words else None
        found = named
    return found


def mentioned(text: str) -> list[str]:
    """Return what documents tell a reader to type: in code, from `holdfast` to the end of the command."""
    code = re.findall(r"^ *```.*?^ *```|^ {4,}\S.*?$|`[^`\n]+`", text, re.MULTILINE | re.DOTALL)
    return [
        match[1].strip()
        for piece in code
        for match in re.finditer(
            r"(?:^\s*|[`;(&|]\s*|bin/|heroku run )holdfast +([a-z][^`\n|;&#)]*)", piece, re.MULTILINE
        )
    ]


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_that_a_document_names_exists(path: Path) -> None:
    unknown = []
    for line in mentioned(path.read_text()):
        words = line.split()
        found = command([word for word in words if not word.startswith("-")])
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        known = {option for each in found.params for option in each.opts} if found else set()
        if words == ["command"]:  # as which a command calls itself in pg_stat_activity
            continue
        if found is None or not options <= known | {"--help"}:
            unknown.append(line)

    assert unknown == []


def test_the_table_of_commands_has_each() -> None:
    text = (ROOT / "docs/operations.md").read_text().partition("## All commands")[2]
    listed = set(re.findall(r"^\| `holdfast ([a-z ]+?)` \|", text, re.MULTILINE))
    groups = {
        "emails",
        "retries",
        "quarantine",
        "storage",
        "holds",
        "retention",
        "evidence",
        "receipts",
        "erasures",
    }

    assert listed == {" ".join(words) for words in commands() if words} - groups


def test_every_endpoint_is_in_the_document_of_the_api() -> None:
    text = (ROOT / "docs/api.md").read_text()
    listed = set(re.findall(r"^\| `([A-Z]+ /\S*)` \|", text, re.MULTILINE))

    assert listed == {f"{route.method} {route.path}" for route in API}


# ── settings


def test_the_table_of_settings_has_each_with_its_default() -> None:
    text = (ROOT / "docs/settings.md").read_text()
    rows = dict(re.findall(r"^\| `([A-Z][A-Z_]*)` \| (.*?) ?\| ", text, re.MULTILINE))
    expected = {}
    for name, field in Settings.model_fields.items():
        default = field.default
        if isinstance(default, bool):
            default = str(default).lower()
        if default in {None, (), PydanticUndefined}:
            expected[name.upper()] = ""
        else:
            shown = ",".join(default) if isinstance(default, tuple) else default
            expected[name.upper()] = f"`{shown}`"

    words = {"ALERT_SILENCE_SECONDS": "learned", "WORKER_NAME": "the host's name"}
    assert rows == expected | words


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_setting_that_a_document_names_exists(path: Path) -> None:
    known = {name.upper() for name in Settings.model_fields}
    named = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", path.read_text()))

    families = {name.partition("_")[0] for name in known} - {"OTEL", "LOG"}
    assert {name for name in named - known if name.partition("_")[0] in families} == set()


# ── error codes


def codes_in(path: Path, constants: dict[str, str]) -> set[str]:
    """Find the codes that a module gives to errors, also those that stand in its tables."""
    tree = ast.parse(path.read_text())
    found = set(re.findall(r"error_code = '(\w+)'", path.read_text()))
    is_indirect = False
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.keyword)
            and node.arg == "error_code"
            and isinstance(node.value, ast.Constant)
        ):
            found.add(str(node.value.value))
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        place = _RAISED.get(node.func.id)
        if place is None or len(node.args) <= place:
            continue
        given = node.args[place]
        if isinstance(given, ast.Constant):
            found.add(str(given.value))
        elif isinstance(given, ast.Name) and given.id in constants:
            found.add(constants[given.id])
        elif isinstance(given, ast.Name):
            is_indirect = True
    return (found | tables_in(tree) if is_indirect else found) - {"None"}


def tables_in(tree: ast.Module) -> set[str]:
    """Find the codes in a module's tables, and those that are assigned to a variable `code`."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any(
            isinstance(each, ast.Name) and each.id == "code" for each in node.targets
        ):
            values = [each.value for each in ast.walk(node.value) if isinstance(each, ast.Constant)]
            found |= {value for value in values if isinstance(value, str)}
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            for each in ast.walk(node.value):
                if isinstance(each, ast.Tuple):
                    texts = [part.value for part in each.elts if isinstance(part, ast.Constant)]
                    codes = [text for text in texts if isinstance(text, str) and _CODE.fullmatch(text)]
                    found |= {*codes} if len(texts) > len(codes) else set()
                elif isinstance(each, ast.Dict):
                    texts = [part.value for part in each.values if isinstance(part, ast.Constant)]
                    found |= {
                        text
                        for text in texts
                        if isinstance(text, str) and re.fullmatch("[a-z]+_[a-z_]+", text)
                    }
    return found


def constants_in(paths: list[Path]) -> dict[str, str]:
    """Read the constants that are codes, such as ROW_REFUSED, wherever they are defined."""
    return {
        name: value
        for path in paths
        for name, value in re.findall(r'^([A-Z_]+) = "([a-z_]+)"$', path.read_text(), re.MULTILINE)
    }


@pytest.fixture(scope="module")
def sources() -> list[Path]:
    return [path for path in sorted((ROOT / "service").rglob("*.py")) if path.name != "error_guide.py"]


def test_every_code_of_the_source_is_in_the_guide(sources: list[Path]) -> None:
    constants = constants_in(sources)
    own = [path for path in sources if "local" not in path.parts]
    found = {code for path in own for code in codes_in(path, constants)}

    assert len(found) > 80
    assert {code for code in found | {*CAUSES} | _OF_HTTP if action_on(code) is None} == set()


def test_every_code_of_the_guide_is_in_the_source(sources: list[Path]) -> None:
    text = "\n".join(path.read_text() for path in sources)
    codes = [advice.code for group in GROUPS for advice in group.advices]

    assert len(codes) == len({*codes}), "a code stands twice in the guide"
    assert {
        code for code in codes if code not in _OF_HTTP and not re.search(rf"[\"']{code}[\"']", text)
    } == set()


def test_an_advice_is_two_sentences_at_most() -> None:
    for group in GROUPS:
        for advice in group.advices:
            assert re.fullmatch(r"[A-Z].*[.`]", advice.meaning), advice
            assert re.fullmatch(r"[A-Z`].*[.`]", advice.action), advice
            assert len(advice.meaning) < 200, advice
            assert len(advice.action) < 250, advice


def test_the_commands_and_settings_of_the_guide_exist() -> None:
    text = markdown()
    known = {name.upper() for name in Settings.model_fields}

    assert set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", text)) <= known


def test_the_document_of_error_codes_is_up_to_date() -> None:
    assert (ROOT / "docs/errors.md").read_text() == markdown(), "run: make docs/errors.md"


# ── the map


def test_every_module_of_the_map_exists() -> None:
    """A module is written as `package/module`, below service/."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    named = set(re.findall(r"`([a-z_]+(?:/[a-z_]+)+)(?:\.py)?`", text))

    assert named
    assert {name for name in named if not (ROOT / "service" / f"{name}.py").is_file()} == set()


def test_the_map_names_every_package() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    packages = {
        path.parent.relative_to(ROOT / "service").name for path in ROOT.glob("service/**/__init__.py")
    }

    assert {name for name in packages - {"", "versions"} if f"`{name}/`" not in text} == set()
