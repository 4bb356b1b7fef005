"""Search a body for its files and for the comment that they belong to, at any depth."""

import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from service.zendesk.addresses import (
    Address,
    addresses_in,
    attachment_tokens_in,
    exact_address,
    file_names_beside,
    is_cdn,
    may_contain_files,
    unescaped,
)
from service.zendesk.body import MOST_DEPTH, Unreadable, embedded_json, is_blank, text_of
from service.zendesk.comments import COMMENT_ID, nearest_id, newest_id, only_some_list_files
from service.zendesk.files import (
    ADDRESS_FIELDS,
    FILE_FIELDS,
    MOST_ATTACHMENTS,
    AnnouncedFile,
    bare_file,
    fields_of,
    files_of,
    read_addresses,
    read_attachment,
)
from service.zendesk.names import Name, name_of

_MOST_JSON_IN_TEXT = 4  # the levels of JSON inside texts of JSON
_MAY_BE_JSON = {"[", "{", " ", "\n", "\r", "\t"}
_LEAST_ADDRESS = 12  # characters; "https://a/b" is shorter, but never Zendesk's

_COUNT = re.compile(r"[0-9]{1,9}(?![\w.-])")  # "3 files", but not "2026-invoice.pdf"
_NO = {
    *("", "0", "-", "no", "false", "none", "null", "nil", "n/a"),
    *("no attachments", "no attachment", "no files"),
}
_NAMES = ("name", "names")
_RECORD = re.compile(r"/attachments/[0-9]+")  # of a file, in Zendesk's API
# Within an object of a file: any address below these is a file, too.
_ADDRESS_LISTS = {"urls", "links", "uris", "hrefs"}
_FILE_NAME = re.compile(r"[^/]{1,200}\.[A-Za-z0-9]{1,8}\s{0,9}", re.DOTALL)

_MOST_COUNTED = 100
_UNKNOWN = AnnouncedFile("", None, None, None)

_Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """The files in a body.

    `listed` is the body's list, as it was sent; None if the files have to be looked up in Zendesk. `comment_id`
    is None if the body names no comment, or if several are possible. `may_be_more`: the files stand only in
    the e-mail's HTML, and the body names no comment.
    """

    attachments: tuple[AnnouncedFile, ...]
    listed: list[object] | None
    comment_id: str | None
    may_be_more: bool = False


def search(data: dict[str, object]) -> FoundFiles:
    """Find the files and the comment in a body; raises Unreadable, and nothing else."""
    found = _Search()
    found.read_object(data, _Context(is_ticket=True))
    found.read_texts()
    is_complete = len(found.files) >= found.announced and not found.is_incomplete
    says_all = found.is_listed or found.says_none
    is_in_html = found.is_in_html and not says_all and not found.comments
    listed = found.listed if is_complete and (says_all or is_in_html) else None
    files = (*found.files.values(), *found.unaddressed)
    # Files that the body only counts: the look-up has to find as many.
    files += (_UNKNOWN,) * (min(found.announced, _MOST_COUNTED) - len(files))
    return FoundFiles(files, listed, nearest_id(found.comments), may_be_more=is_in_html)


@dataclass(frozen=True, slots=True)
class _Context:
    """The position and the trust of a value in the body."""

    depth: int = 0
    in_text: int = 0  # the levels of JSON inside texts above this value
    is_trusted: bool = True  # ids and empty lists count: no sender wrote them, and they concern the e-mail
    is_ticket: bool = False  # the body itself, or its ticket
    is_aside: bool = False  # belongs to another object, such as an earlier comment

    def below(self, name: Name, *, is_alone: bool = True, in_text: int = 0) -> "_Context":
        is_aside = self.is_aside or name.is_aside
        is_trusted = self.is_trusted and is_alone and not is_aside and not in_text
        is_ticket = self.is_ticket and name.word == "ticket" and not in_text
        return _Context(self.depth + 1, self.in_text + in_text, is_trusted, is_ticket, is_aside)

    def embedded_json(
        self, text: str, *, refuse_duplicates: bool = False
    ) -> dict[str, object] | list[object] | None:
        if self.in_text >= _MOST_JSON_IN_TEXT:
            return None
        return embedded_json(text, MOST_DEPTH - self.depth, refuse_duplicates=refuse_duplicates)


@dataclass(slots=True)
class _Search:
    """Traverses a body once, and collects its files and comments."""

    files: dict[_Key, AnnouncedFile] = field(default_factory=dict)
    unaddressed: list[AnnouncedFile] = field(
        default_factory=list
    )  # named without an address: the look-up has to find them
    listed: list[object] = field(default_factory=list)
    is_listed: bool = False  # a list, an object or a text names the files
    is_in_html: bool = False  # files stand in the HTML of the e-mail itself
    says_none: bool = False
    is_incomplete: bool = False  # a file has no address, or an address became no file
    announced: int = 0  # the number of files, if the body counts them
    comments: list[tuple[int, bool, str]] = field(
        default_factory=list
    )  # depth, whether it is not called the latest, id
    # Texts that may contain addresses; whether the text may list all files; whether it is the e-mail's HTML.
    texts: list[tuple[str, bool, bool]] = field(default_factory=list)
    tokens: dict[str, tuple[_Key, str, str]] = field(
        default_factory=dict
    )  # the first file, its host and name
    no_files: set[str] = field(default_factory=set)  # tokens of thumbnails
    seen: int = 0  # addresses of files, including repeated ones

    # Keys whose names do not announce files.

    def read_object(self, data: dict[str, object], context: _Context) -> None:
        may_be_file = False
        for key, value in data.items():
            name = name_of(key)
            if len(key) > _LEAST_ADDRESS and may_contain_files(key):
                self.texts.append((key, not context.is_aside, False))
            if isinstance(value, str) and not name.is_files:
                may_be_file |= self.read_text(name, value, context)
            elif isinstance(value, dict | list) or name.is_files or name.is_comment_id or name.is_count:
                self.read_value(name, value, context)
        if may_be_file and not FILE_FIELDS.isdisjoint(fields := fields_of(data)):
            self.add_object(fields, data, context)

    def read_value(self, name: Name, value: object, context: _Context) -> None:
        if name.is_files:
            self.read_announced(name, value, context, is_outer=True)
        elif isinstance(value, dict):
            if name.is_comment:
                self.note_comment(name, value.get("id"), context.below(name))
            self.read_object(value, context.below(name))
        elif isinstance(value, list):
            if name.is_comment:
                self.note_comment(name, newest_id(value), context.below(name))
                self.is_incomplete |= only_some_list_files(value)
            if name.is_count and context.is_trusted:
                self.announced = max(self.announced, sum(not is_blank(each) for each in value))
            self.read_list(name, value, context)
        elif name.is_comment_id:
            self.note_comment(name, value, context)
        elif name.is_count and context.is_trusted and isinstance(value, int | float):
            self.announced = max(self.announced, int(value))

    def read_list(self, name: Name, values: list[object], context: _Context) -> None:
        below = context.below(name, is_alone=len(values) == 1)
        for value in values:
            if isinstance(value, str):
                self.read_text(name, value, below)
            elif isinstance(value, dict):
                self.read_object(value, below)
            elif isinstance(value, list):
                self.read_list(name, value, below)

    def read_text(self, name: Name, text: str, context: _Context) -> bool:
        """Read a text; return whether it may contain addresses of attachments."""
        if name.is_comment_id:
            self.note_comment(name, text, context)
        elif name.is_count and context.is_trusted:
            # A name may begin with a number: "2026 invoice.pdf".
            number = int(text.strip().lower() not in _NO) if name.word.endswith(_NAMES) else _count(text)
            self.announced = max(self.announced, number)
        elif len(text) < _LEAST_ADDRESS:
            return False
        elif (
            not name.is_text
            and text[:1] in _MAY_BE_JSON
            and (value := context.embedded_json(text)) is not None
        ):
            below = context.below(name, in_text=1)
            if isinstance(value, dict):
                self.read_object(value, below)
            else:
                self.read_list(name, value, below)
        elif may_contain_files(text):
            self.texts.append(
                (
                    text,
                    not name.is_text and not context.is_aside,
                    "html" in name.word and not context.is_aside,
                )
            )
            return True
        return False

    # Keys whose names announce files.

    def read_announced(self, name: Name, value: object, context: _Context, *, is_outer: bool = False) -> None:
        if is_blank(value):
            self.note_none(name, value, context)
            return
        before = self.seen
        if isinstance(value, list):
            if is_outer:
                self.listed += value
            self.read_items(name, value, context)
        elif isinstance(value, dict):
            if is_outer:
                self.listed.append(value)
            self.read_item(name, value, context)
        elif not isinstance(value, str):
            self.note_unreadable(name, value, context)
        elif (
            parsed := context.embedded_json(value, refuse_duplicates=True)
        ) is not None or value.strip() == "null":
            self.read_announced(name, parsed, context.below(name), is_outer=is_outer)
        elif not self.read_list_text(value, is_outer=is_outer):
            self.note_unreadable(name, value, context)
        if self.seen > before and not context.is_aside:
            self.is_listed = True

    def read_items(self, name: Name, items: list[object], context: _Context) -> None:
        if len(items) > MOST_ATTACHMENTS and sum(map(bool, items)) > MOST_ATTACHMENTS:
            raise _too_many()
        filled = [item for item in filter(None, items) if not is_blank(item)]
        if False in items:  # also for 0
            self.is_incomplete = True
        elif not filled and len(items) > 1:
            # A template wrote an item for each file, with a placeholder that is wrong.
            self.is_incomplete = True
        elif not filled:
            self.note_none(name, items, context)
        below = context.below(name)
        for item in filled:
            self.read_item(name, item, below)

    def read_item(self, name: Name, item: object, context: _Context) -> None:
        """Read one file of a list, or the only one; it counts as announced, even if it is empty."""
        before = self.seen
        if isinstance(item, list):
            self.read_items(name, item, context)
            return
        if isinstance(item, dict):
            self.read_file(name, item, context)
        elif isinstance(item, str):
            parsed = context.embedded_json(item, refuse_duplicates=True)
            if parsed is not None:
                self.read_item(name, parsed, context.below(name))
                return
            self.read_list_text(item, is_outer=False)
            if self.seen == before and not name.is_certain and not _FILE_NAME.fullmatch(item):
                return  # "document": "Passport" announces nothing
        if self.seen == before:
            self.is_incomplete = True
            file = read_attachment(item)
            if name.is_certain and not context.is_aside and _FILE_NAME.fullmatch(file.file_name or ""):
                self.unaddressed.append(file)

    def read_file(self, name: Name, item: dict[str, object], context: _Context) -> None:
        """Read the object of a file; one without an address may hold the objects of files."""
        found = files_of(fields_of(item), is_announced=True)
        for address, file in found:
            self.add(address, file)
        below = context.below(name)
        # Of each address its key, and its token: a set, because there may be thousands of fields and addresses.
        known = {each for address, _ in found for each in (address.key, address.token)} - {None}
        for key, value in item.items():
            if len(key) > _LEAST_ADDRESS and may_contain_files(key):
                self.texts.append((key, False, False))
            if is_blank(value):
                self.is_incomplete |= _FILE_NAME.fullmatch(key) is not None  # {"invoice.pdf": ""}
            elif found:
                self.read_beside(name, name_of(key), value, known, below)
            elif isinstance(value, dict | list):
                self.read_announced(name, value, below)
            elif name_of(key).word == "count" and below.is_trusted:
                self.announced = max(self.announced, _count(text_of(value) or ""))

    def read_beside(
        self, name: Name, inner: Name, value: object, known: AbstractSet[_Key | str | None], context: _Context
    ) -> None:
        """Read a field of a file's object, whose addresses are known."""
        is_list = inner.word in _ADDRESS_LISTS or (inner.is_files and inner.word not in ADDRESS_FIELDS)
        if isinstance(value, str) and is_list:
            self.read_list_text(value, is_outer=False)
        elif isinstance(value, str):
            link = exact_address(value) if inner.word in ADDRESS_FIELDS else None
            if link is not None and (link.key in known or link.token in known):
                return
            if may_contain_files(value):
                self.texts.append((value, False, False))
            elif link is not None and not link.is_other:
                self.is_incomplete = True  # two fields of one meaning with different addresses
        elif inner.word in {"thumbnail", "thumbnails"}:
            self.read_thumbnails(value)
        elif isinstance(value, dict | list):
            self.read_value(name if inner.word in _ADDRESS_LISTS else inner, value, context)

    def read_list_text(self, text: str, *, is_outer: bool) -> bool:
        """Read the addresses in a text that announces files; return whether there were any."""
        if exact_address(text) is None and may_contain_files(text):
            self.texts.append((text, False, False))  # to check later that no address was overlooked
        found = read_addresses(text)
        usable = [each for each in found if not each.is_other and (each.host or each.is_attachment)]
        for address in usable:
            self.add(address, bare_file(address, None))
            if is_outer:
                self.listed.append(address.text)
        if usable and (
            any(each.is_other and _RECORD.search(each.path) for each in found)
            or len(file_names_beside(unescaped(text))) > len(usable)
        ):
            self.is_incomplete = True  # it names a further file, whose address is missing
        return bool(usable)

    def read_thumbnails(self, value: object) -> None:
        """Skip the small copies that the API makes of a picture; a copy must have "thumb" in its values."""
        for item in value if isinstance(value, list) else [value]:
            texts = [
                text
                for text in (item.values() if isinstance(item, dict) else [item])
                if isinstance(text, str)
            ]
            if any("thumb" in text.lower() for text in texts):
                self.no_files.update(token for text in texts for token in attachment_tokens_in(text[:10_000]))
            elif any(map(may_contain_files, texts)):
                self.is_incomplete = True

    # Addresses in texts.

    def read_texts(self) -> None:
        """Find the addresses of attachments in texts, and check that none was overlooked anywhere."""
        traces: set[str] = set()
        for text, may_tell, is_html in self.texts:
            shown = unescaped(text)
            found, is_pure = addresses_in(shown, MOST_ATTACHMENTS, is_list=False)
            files = [address for address in found if address.is_attachment]
            for address in files:
                if address.is_too_long:
                    self.is_incomplete = True
                elif self.add(address, bare_file(address, address.file_name)):
                    self.listed.append(address.text)
            self.is_listed |= is_pure and bool(files) and may_tell
            self.is_in_html |= is_html and bool(files)
            tokens = list(attachment_tokens_in(shown))
            traces.update(tokens)
            if tokens.count("") > sum(is_cdn(address.host) for address in files):
                self.is_incomplete = True
        if traces - {""}:
            known = {
                trace for token in self.tokens for trace in attachment_tokens_in(f"attachments/token/{token}")
            }
            self.is_incomplete |= not traces <= known | self.no_files | {""}

    # Results.

    def add_object(self, fields: dict[str, object], data: dict[str, object], context: _Context) -> None:
        """Record the files of an object that no key announces."""
        for address, file in files_of(fields, is_announced=False):
            self.is_listed |= not context.is_aside
            if self.add(address, file):
                self.listed.append(data)

    def add(self, address: Address, file: AnnouncedFile) -> bool:
        """Record a file once, with all its known fields; return whether it is new."""
        self.seen += 1
        key = address.key
        if (token := address.token) is not None:
            host, _, name = key
            first, its_host, its_name = self.tokens.setdefault(token, (key, host, name))
            # A path alone is on the same host, and an address without a file name is the same file.
            if (not host or not its_host or host == its_host) and (
                not name or not its_name or name == its_name
            ):
                self.tokens[token] = (first, its_host or host, its_name or name)
                key = first
        known = self.files.get(key)
        if known is None:
            if len(self.files) >= MOST_ATTACHMENTS:
                raise _too_many()
            self.files[key] = file
            return True
        if known != file:
            self.files[key] = AnnouncedFile(
                known.url,
                known.file_name or file.file_name,
                known.content_type or file.content_type,
                file.size if known.size is None else known.size,
            )
        return False

    def note_comment(self, name: Name, value: object, context: _Context) -> None:
        if context.is_trusted and (text := text_of(value)) and COMMENT_ID.fullmatch(text):
            self.comments.append((context.depth, not name.is_latest, text))

    def note_none(self, name: Name, value: object, context: _Context) -> None:
        """Record that there are no files; a field for one document does not prove it."""
        is_list = not name.is_single or isinstance(value, list)
        is_all = "inline" not in name.word and (
            name.is_certain or (name.word == "files" and context.is_ticket)
        )
        self.says_none |= context.is_trusted and is_list and is_all

    def note_unreadable(self, name: Name, value: object, context: _Context) -> None:
        # A template's word for no files proves nothing: the API tells.
        is_none = isinstance(value, str) and value.strip().lower() in _NO
        if name.word == "attachments" and context.is_ticket and not is_none:
            raise Unreadable("wrong_shape", "`attachments` is neither a list nor an object nor an address.")
        self.is_incomplete |= bool(name.is_certain and value)
        self.is_incomplete |= isinstance(value, str) and _FILE_NAME.fullmatch(value) is not None


def _count(text: str) -> int:
    text = text.strip().lower()
    number = _COUNT.match(text)
    return int(number[0]) if number else int(text not in _NO)


def _too_many() -> Unreadable:
    return Unreadable("wrong_shape", f"There are more than {MOST_ATTACHMENTS:,} attachments.")
