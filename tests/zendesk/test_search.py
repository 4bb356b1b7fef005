"""The files in a body, and the comment that they belong to, are found at any place and in any form."""

import json

import pytest

from service.outbound.addresses import MOST_ADDRESS
from service.zendesk.payloads import AnnouncedFile
from tests.support.payloads import (
    ADDED,
    CDN,
    EVENT,
    FILE,
    JOINTS,
    LISTED_PDF,
    RECORD,
    A,
    B,
    is_looked_up,
    read,
    urls,
)

# Places of files


@pytest.mark.parametrize(
    "said",
    [
        {"latest_comment": {"attachments": [LISTED_PDF]}},
        {"lastPublicComment": {"text": "anbei", "attachments": [{"fileName": "a.pdf", "url": A}]}},
        {"ticket": {"latest_comment": {"attachments": [LISTED_PDF]}}},
        {"comments": [{"attachments": [LISTED_PDF]}]},
        {
            "data": {
                "ticket": {"comments": [{"id": 1, "attachments": []}, {"id": 2, "attachments": [LISTED_PDF]}]}
            }
        },
        {"attachment": LISTED_PDF},
        {"attachment": A},
        {"Attachments": [LISTED_PDF]},
        {"ATTACHMENTS": A},
        {"attachment_urls": [A]},
        {"attachmentUrls": A},
        {"attachment-links": A},
        {"attachment_1": A, "attachment_2": "", "attachment_3": None},
        {"files": [LISTED_PDF]},
        {"file": LISTED_PDF},
        {"file_url": A},
        {"documents": {"items": [LISTED_PDF], "count": 1}},
        {"uploads": [A]},
        {"Anlagen": [LISTED_PDF]},
        {"anything": A},
        {"anything": [[[{"x": {"y": {"url": A}}}]]]},
        {"attachments": [{"attachment": LISTED_PDF}]},
        {"attachments": [{"id": 1, "data": {"href": A}}]},
        {"attachments": [[LISTED_PDF]]},
        {"attachments": {"first": LISTED_PDF}},
        {"attachments": {"a.pdf": A}},
        {"attachments": json.dumps([LISTED_PDF])},
        {"attachments": json.dumps(json.dumps([LISTED_PDF]))[1:-1]},
        {"attachments": [json.dumps(LISTED_PDF)]},
        {"ticket": json.dumps({"attachments": [LISTED_PDF]})},
        {"payload": json.dumps({"ticket": json.dumps({"attachments": json.dumps([LISTED_PDF])})})},
        {"attachments": f'#<AnnouncedFile url="{A}" filename="a.pdf">'},
        {"attachments": f"a.pdf: {A}"},
        {"attachments": "", "ticket": {"attachments": [LISTED_PDF]}},
        {"attachments": [], "comment": {"attachments": [], "files": [LISTED_PDF]}},
        {"attachments": None, "ticket": {"attachment": {}, "x": {"attachments": [LISTED_PDF]}}},
        {
            "attachments": [LISTED_PDF],
            "ticket": {"attachments": [LISTED_PDF]},
            "comment": {"attachments": A},
            "x": A,
        },
        {A: "a.pdf"},
    ],
)
def test_a_file_is_found_at_any_depth_and_under_any_key(said: dict[str, object]) -> None:
    """Once, and without a request to the API."""
    assert urls(**said) == [A]


@pytest.mark.parametrize(
    "item",
    [
        {"filename": "a.pdf", "content_type": "application/pdf", "size": 7},
        {"fileName": "a.pdf", "contentType": "application/pdf", "fileSize": "7"},
        {"file_name": "a.pdf", "mime_type": "application/pdf", "bytes": 7},
        {"Name": "a.pdf", "type": "application/pdf", "length": 7.0},
        {"title": "a.pdf", "mimeType": "application/pdf", "SIZE": " 7 "},
        {"filename": "", "name": "a.pdf", "content_type": None, "mime": "application/pdf", "size": "7"},
    ],
)
@pytest.mark.parametrize(
    "key",
    [
        "url",
        "content_url",
        "contentUrl",
        "mapped_content_url",
        "href",
        "link",
        "attachment_url",
        "download_url",
        "URL",
    ],
)
def test_the_fields_of_a_file_are_read_in_every_spelling(key: str, item: dict[str, object]) -> None:
    assert read({"ticket_id": 1, "attachments": [{key: A, **item}]}).attachments == (
        AnnouncedFile(A, "a.pdf", "application/pdf", 7),
    )


def test_a_repeated_address_is_one_file_with_all_its_fields() -> None:
    email = read({"ticket_id": 1, "attachment_urls": [A], "attachments": [LISTED_PDF | {"size": 7}]})

    assert email.attachments == (AnnouncedFile(A, "a.pdf", None, 7),)


@pytest.mark.parametrize(
    "again",
    [
        A,
        A.replace("?name", "?inline=1&amp;name"),
        A.removesuffix("?name=a.pdf"),
        A.removeprefix("https:"),
        A.removeprefix("https://"),
        A.removeprefix("https://acme.zendesk.com"),
        A.replace("acme", "ACME").replace("https", "HTTPS"),
        A.replace("a.pdf", "%61.pdf"),
    ],
)
def test_two_spellings_of_an_address_are_one_file(again: str) -> None:
    said = {"attachments": [LISTED_PDF], "body_html": f'<a href="{again}">a.pdf</a>'}

    assert urls(**said) == [A]
    assert len(urls(attachments=[again, A])) == 1


def test_two_names_below_one_token_are_two_files() -> None:
    other = A.replace("a.pdf", "b.pdf")

    assert urls(attachments=[A, other, A]) == [A, other]


def test_the_apis_own_object_is_one_file() -> None:
    """`url` is its record, `mapped_content_url` is a second address of the file, and a thumbnail is no file."""
    item = {
        "url": RECORD,
        "id": 498483,
        "file_name": "a.pdf",
        "content_url": A,
        "mapped_content_url": A.replace("acme.zendesk.com", "support.acme.com"),
        "thumbnails": [
            {"id": 2, "content_url": A.replace("kPg", "t").replace("a.pdf", "a_thumb.png"), "size": 166}
        ],
    }

    assert urls(attachments=[item]) == [A]


def test_a_file_below_thumbnails_is_not_lost() -> None:
    """A quotation mark in a file's name can move the following files there."""
    assert is_looked_up(attachments=[{"content_url": A, "thumbnails": [{"url": B, "filename": "b c.pdf"}]}])


def test_a_second_address_in_an_object_is_a_second_file() -> None:
    """A quotation mark in a file's name can add a preferred key."""
    assert urls(attachments=[{"url": A, "filename": "x", "content_url": "https://evil.example/x"}]) == [
        "https://evil.example/x",
        A,
    ]


@pytest.mark.parametrize(
    "host", ["files.example", "127.0.0.1:8080", "xn--bcher-kva.example", "bücher.example"]
)
def test_under_a_key_for_files_any_host_counts(host: str) -> None:
    url = f"https://{host}/x?y=z"

    assert (
        urls(attachments=[{"url": url}])
        == urls(files=url)
        == urls(latest_comment={"attachment": [url]})
        == [url]
    )


@pytest.mark.parametrize(
    "other",
    [
        {"url": "https://acme.zendesk.com/agent/tickets/1"},
        {"ticket_url": "acme.zendesk.com/agent/tickets/1"},
        {"avatar": "https://acme.zendesk.com/system/photos/1/me.png"},
        {"author": {"photo": {"url": RECORD, "content_url": "https://acme.zendesk.com/photos/me.png"}}},
        {"record": RECORD},
        {
            "body_html": '<img src="https://tracker.example/pixel.gif"><a href="https://acme.zendesk.com/hc/x">x</a>'
        },
        {"body_text": "https://example.com/attachments/x attachments/token and /attachments/"},
        {"article": "https://acme.zendesk.com/hc/article_attachments/1/x.png"},
    ],
)
def test_other_addresses_are_left_out(other: dict[str, object]) -> None:
    assert urls(attachments=[A], **other) == [A]
    assert urls(attachments=[], **other) == []


# Forms of addresses


@pytest.mark.parametrize("joint", JOINTS)
def test_an_address_ends_before_the_next_one(joint: str) -> None:
    text = joint.join([A, CDN, B])

    assert (
        urls(attachments=text) == urls(attachments=[text]) == urls(attachments=[{"url": text}]) == [A, CDN, B]
    )
    assert urls(attachments=[], body_text=text) == [A, CDN, B]


@pytest.mark.parametrize("joint", [",", ";", " ", "|", "<br>", "\n"])
def test_addresses_without_a_scheme_are_separated_too(joint: str) -> None:
    parts = [A.removeprefix("https:"), B.removeprefix("https://"), "/attachments/token/x1/?name=c.pdf", CDN]

    assert urls(attachments=joint.join(parts)) == [A, B, parts[2], CDN]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (A, A),
        (f"  {A}\n", A),
        (f"{A},", A),
        (A.replace("https", "http"), A.replace("https", "http")),
        (A.replace("https", "HTTPS"), A.replace("https", "HTTPS")),
        (A.replace("/?", "/?a=b&amp;c=d&amp;"), A.replace("/?", "/?a=b&c=d&")),
        (A.replace("/", "\\/"), A),
        (A.replace("/", "&#x2F;").replace("=", "&#x3D;"), A),
        (A.removeprefix("https:"), A),
        (A.removeprefix("https://"), A),
        (A.removeprefix("https://acme.zendesk.com"), A.removeprefix("https://acme.zendesk.com")),
        (A.removeprefix("https://acme.zendesk.com/"), A.removeprefix("https://acme.zendesk.com")),
        (
            "https%3A%2F%2Facme.zendesk.com%2Fattachments%2Ftoken%2Fx%2F",
            "https://acme.zendesk.com/attachments/token/x/",
        ),
        (f"https://proxy.example/?u={A}", A),
        (f"[{A}]", A),
        (f"['{A}']", A),
        (f"<{A}>", A),
        (f"({A})", A),
        (A.replace("a.pdf", "a(1)[2].pdf"), A.replace("a.pdf", "a(1)[2].pdf")),
        (A.replace("a.pdf", "%28a%3B%2C%27%22.pdf"), A.replace("a.pdf", "%28a%3B%2C%27%22.pdf")),
        (
            "https://proxy.example/?u=https%3A%2F%2Ffiles.example%2Fx",
            "https://proxy.example/?u=https%3A%2F%2Ffiles.example%2Fx",
        ),
    ],
)
def test_the_escapes_of_an_address_are_undone(text: str, expected: str) -> None:
    assert (
        urls(attachments=[text]) == urls(attachments=text) == urls(attachments=[{"url": text}]) == [expected]
    )


def test_a_space_in_the_address_of_an_object_stays() -> None:
    """A template that does not encode the file's name leaves it there."""
    url = A.replace("a.pdf", "my file.pdf")

    assert urls(attachments=[{"url": f" {url} "}]) == [url]


# Addresses in texts


@pytest.mark.parametrize(
    "text",
    [
        A,
        f"see {A}.",
        f"({A})",
        f"[invoice]({A})",
        f"![]({A})",
        f"<{A}>",
        f'<p>x</p><img src="{A}">',
        f"<IMG alt='' SRC='{A}'/>",
        f"<a href={A}>x</a>",
        f'<img srcset="{A} 2x">',
        f"<div style=\"background:url('{A}')\">",
        f"&lt;img src=&quot;{A}&quot;&gt;",
        f"&amp;lt;img src=&amp;quot;{A}&amp;quot;&amp;gt;",
        json.dumps({"html": f'<img src="{A}">'}),
        json.dumps(json.dumps({"html": f'<img src="{A}">'})),
        '{"url": "' + A.replace("/", "\\/") + '", broken',
        f"„{A}“, “{A}”",
        f"{A}, {A}; {A}!",
    ],
)
@pytest.mark.parametrize(
    "key", ["body_html", "body_text", "comment", "latest_comment", "subject", "from_name", "x"]
)
def test_an_attachments_address_in_a_text_is_a_file(key: str, text: str) -> None:
    """Its name is in the address. A text never lists all files of a comment, so the others are looked up.

    Only the e-mail's HTML may hold all files: then the look-up may find no more.
    """
    email = read({"ticket_id": 1, key: text})
    beside = read({"ticket_id": 1, key: text, "attachments": [B]})

    assert email.attachments == (AnnouncedFile(A, "a.pdf", None, None),)
    assert email.attachment_urls is None or key in {"x", "body_html"}
    assert email.comment_id == "" or key == "x"
    assert {file.url for file in beside.attachments} == {A, B}
    assert beside.attachment_urls is not None


@pytest.mark.parametrize(
    "text",
    [
        CDN,
        "https://p19.zdusercontent.com/x/b.png",
        "https://other.example/attachments/token/x",
        "https://acme.zendesk.com/sc/attachments/v2/01HX/b.png",
        "//acme.zendesk.com/attachments/token/x/?name=b.png",
        "acme.zendesk.com/attachments/token/x/?name=b.png",
    ],
)
def test_every_form_of_an_attachments_address_is_recognised(text: str) -> None:
    expected = text if text.startswith("https:") else f"https://{text.lstrip('/')}"

    assert urls(attachments="", body_html=f'<img src="{text}">') == [expected]


def test_the_path_alone_of_an_image_is_kept_for_the_account() -> None:
    assert urls(attachments=[], html='<img src="/attachments/token/x/?name=i.png">') == [
        "/attachments/token/x/?name=i.png"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "https://links.example/?u=https%3A%2F%2Facme.zendesk.com%2Fattachments%2Ftoken%2Fx%2F%3Fname%3Db.pdf",
        "https://links.example/?u=https%253A%252F%252Facme.zendesk.com%252Fattachments%252Ftoken%252Fx%252F",
        "https://links.example/?u=https%3A%2F%2Fp1.zdusercontent.com%2Fx",
        "https://acme.zendesk.com/attachments%2Ftoken%2Fx",
        "https://links.example/?to=/attachments/token/x",
        f"{A}/attachments/token/x",
        "https://" + "a" * MOST_ADDRESS + "/attachments/token/x",
        "https://" + "a" * 254 + "/attachments/token/x",
    ],
)
def test_an_attachments_address_that_became_no_file_leads_to_a_look_up(text: str) -> None:
    """A safety net, beside any list of files."""
    for key in ("body_html", "body_text", "x"):
        assert is_looked_up(attachments=[A], **{key: f"<p>{text}</p>"})
        assert is_looked_up(attachments=[], **{key: f"<p>{text}</p>"})


@pytest.mark.parametrize(
    "announced",
    [
        f"{A}/attachments/token/x",
        "https://links.example/?u=https%3A%2F%2Facme.zendesk.com%2Fattachments%2Ftoken%2Fx",
        f"{A} https://links.example/?u=%2Fattachments%2Ftoken%2Fx",
    ],
)
def test_an_overlooked_address_in_a_list_leads_to_a_look_up(announced: str) -> None:
    assert is_looked_up(attachments=announced)
    assert is_looked_up(attachments=[announced, B])
    assert is_looked_up(attachments=[{"url": announced, "filename": "x"}, B])


def test_an_address_in_a_key_is_a_file() -> None:
    """A quotation mark in a file's name can cause that."""
    assert urls(attachments=[{A: "x", "url": B}]) == [B, A]


def test_a_link_to_a_listed_file_leads_to_no_look_up() -> None:
    link = (
        "https://links.example/?u=https%3A%2F%2Facme.zendesk.com%2Fattachments%2Ftoken%2FkPgFVVxSa6%2F%3Fname"
    )

    assert urls(attachments=[A], body_html=f'<a href="{link}">') == [A]


# Complete and incomplete lists


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"attachments": []}, []),
        ({"attachments": ""}, []),
        ({"attachments": " "}, []),
        ({"attachments": None}, []),
        ({"attachments": "[]"}, []),
        ({"attachments": "null"}, []),
        ({"attachments": {}}, []),
        ({"attachment_urls": ""}, []),
        ({"attachment_1": "", "attachment_2": ""}, []),
        ({"files": []}, []),
        ({"latest_comment": {"attachments": []}}, []),
        ({"comments": [{"attachments": []}]}, []),
        ({"attachments": [], "has_attachments": False, "attachment_count": 0}, []),
        ({"attachments": [A, ""]}, [A, ""]),
        ({"ticket": {"attachments": {"url": A}}}, [{"url": A}]),
        ({"attachments": f"{A}; {B}"}, [A, B]),
    ],
)
def test_a_body_that_lists_all_its_files_needs_no_look_up(
    said: dict[str, object], told: list[object]
) -> None:
    """The list is kept unchanged."""
    assert read({"ticket_id": 1, **said}).attachment_urls == told
    named = read({"ticket_id": 1, "comment": {"id": 5}, **said})
    assert (named.attachment_urls, named.comment_id) == (told, "5")


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"subject": "x", "body_text": "x"},
        {"comment_id": ""},
        {"document": "passport"},
        {"document": ""},
        {"file": None},
        {"has_attachments": False},
        {"attachment_count": 0},
        {"body_text": '{"attachments": []}'},
        {"comment": '{"attachments": []}'},
        {"data": '{"attachments": []}'},
        {"previous_comment": {"attachments": []}},
        {"previous_comment": {"attachments": [A]}},
        {"requester": {"files": [A]}},
        {"comments": [{"attachments": []}, {"id": 2}]},
        {"comments": [{"attachments": [A]}, {"id": 2}]},
        {"comment": {"attachments": 2}},
        {"comment": {"attachments": "a.pdf"}},
        {"attachment": "a.pdf"},
        {"attachment": 5},
        {"attachment_1": A, "attachment_2": "b.pdf"},
        {"files": ["a.pdf"]},
        {"attachments": {"url": "", "filename": ""}},
        {"attachments": [{"url": "", "filename": "", "size": ""}]},
        {"attachments": [{"url": None, "filename": "a.pdf"}, LISTED_PDF]},
        {"attachments": [{"url": "ftp://acme/a.pdf"}]},
        {"attachments": [{"url": "https://"}]},
        {"attachments": [{"url": "a.pdf"}]},
        {"attachments": ["a.pdf", A]},
        {"attachments": [{"url": RECORD}]},
        {"attachments": [A], "attachment_count": 2},
        {"attachments": [], "attachments_count": "1"},
        {"attachments": "", "has_attachments": "true"},
        {"attachments": "", "hasAttachments": True},
    ],
)
def test_a_body_that_does_not_list_all_its_files_is_looked_up(said: dict[str, object]) -> None:
    """Neither a sender's text nor the list of another comment counts as "there are none"."""
    assert is_looked_up(**said)


FOREIGN = "https://files.example/a.pdf"


@pytest.mark.parametrize(
    "said",
    [
        {"attachments": ["", ""]},
        {"attachments": [None, None]},
        {"attachments": [{}, {}]},
        {"attachments": '["", ""]'},
        {"attachments": [["", ""]]},
        {"attachments": [], "attachment_names": "invoice.pdf, letter.pdf"},
        {"attachments": [], "attachment_names": ["2026-invoice.pdf"]},
        {"attachments": [], "files_count": "2"},
        {"attachments": [], "num_files": 1},
        {"attachments": [], "with_attachments": "yes"},
        {"attachments": {"count": 2, "items": [A]}},
        {"attachments": {"a.pdf": A, "b.pdf": ""}},
        {"attachments": f'[{{:url=>"{A}", :filename=>"a.pdf"}}, {{:url=>nil, :filename=>"b.pdf"}}]'},
        {"attachments": f"[{{'url': '{A}', 'name': 'a.pdf'}}, {{'url': None, 'name': 'b.pdf'}}]"},
        {"attachments": f"[a.pdf]({A}) [b.pdf]()"},
        {"attachments": f"<ul><li><a href='{A}'>a.pdf</a></li><li>b.pdf</li></ul>"},
        {"attachments": f"{RECORD}, {A}"},
    ],
)
def test_a_file_without_an_address_is_looked_up_whatever_stands_beside_it(said: dict[str, object]) -> None:
    """An item, a name or a number is more than the list has."""
    assert is_looked_up(**said)


@pytest.mark.parametrize(
    "said",
    [
        {"attachments": [""]},
        {"attachments": [], "files_count": 0, "attachment_names": ""},
        {"attachments": [A], "attachment_names": "2026-invoice.pdf", "files_count": "1 file"},
        {"attachments": {"count": 1, "items": [A]}},
        {"attachments": f"[2.3 MB a.pdf]({A}), of mia@files.example"},
        {"attachments": f"a.pdf ({A}); b.pdf ({B})"},
    ],
)
def test_a_list_with_as_many_files_as_names_is_whole(said: dict[str, object]) -> None:
    assert not is_looked_up(**said)


@pytest.mark.parametrize("none", ["None", "none", "No attachments", " 0 ", "-", "n/a", "nil", "no"])
def test_a_word_for_no_files_is_looked_up(none: str) -> None:
    """A template may write it in place of a list; any language may have another one, so that it proves nothing."""
    assert is_looked_up(attachments=none)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://files.example:8001/a.pdf", "http://files.example:8002/a.pdf"),
        ("http://[::1]:80/a.pdf", "http://[::2]/a.pdf"),
        ("https://files.example/a.pdf?v=1", "https://files.example/a.pdf?v=2"),
    ],
)
def test_files_of_two_servers_are_two_files(one: str, other: str) -> None:
    assert urls(attachments=[one, other]) == [one, other]


def test_the_usual_port_makes_no_other_file() -> None:
    assert urls(attachments=[FOREIGN, FOREIGN.replace("example/", "example:443/")]) == [FOREIGN]


@pytest.mark.parametrize(
    "more",
    [
        {"urls": [FOREIGN, f"{FOREIGN}.2"]},
        {"urls": f"{FOREIGN} {FOREIGN}.2"},
        {"files": f"{FOREIGN}.2"},
        {"files": [f"{FOREIGN}.2"]},
        {"inline_attachments": f"{FOREIGN}.2 {FOREIGN}"},
    ],
)
def test_a_list_within_a_files_object_names_further_files(more: dict[str, object]) -> None:
    assert urls(attachments=[{"url": FOREIGN, **more}]) == [FOREIGN, f"{FOREIGN}.2"]


def test_an_event_lists_its_one_file_or_none() -> None:
    linked, added = read(EVENT), read(ADDED)
    created = read(ADDED | {"type": "zen:event-type:ticket.created", "event": {}})

    assert (linked.attachment_urls, linked.comment_id) == ([FILE], "8658726228478")
    assert (added.attachment_urls, added.comment_id) == (None, "8658726228479")
    assert (created.attachment_urls, created.comment_id) == (None, "")


# The comment


@pytest.mark.parametrize(
    "said",
    [
        {"comment_id": "5001"},
        {"comment_id": 5001},
        {"comment_id": 5001.0},
        {"commentId": " 5001 "},
        {"CommentID": 5001},
        {"Comment-Id": 5001},
        {"latest_comment_id": 5001},
        {"ticket": {"latestCommentId": 5001}},
        {"comment": {"id": 5001}},
        {"comment": {"id": 5001, "author": {"id": 7}, "via": {"id": 8}}},
        {"latest_comment": {"id": "5001"}},
        {"lastPublicComment": {"id": 5001}},
        {"ticket": {"id": 1, "latest_comment": {"id": 5001}}},
        {"event": {"comment": {"id": "5001"}}},
        {"data": {"x": [{"ticket": {"comment": {"id": 5001}}}]}},
        {"comments": [{"id": 5001}]},
        {"ticket": {"comments": [{"id": 4000}, {"id": 5001}]}},
        {
            "comments": [
                {"id": 5001, "created_at": "2026-01-02T00:00:00Z"},
                {"id": 4, "created_at": "2026-01-01T00:00:00Z"},
            ]
        },
        {"comment_id": 5001, "ticket": {"latest_comment": {"id": 6}}},
        {"comment_id": 5001, "commentId": "5001"},
        {"comment_id": "", "comment": {"id": 5001}},
        {"comment_id": "{{ticket.comment.id}}", "comment": {"id": 5001}},
        {"parent_comment_id": 6, "previous": {"comment_id": 7}, "comment": {"id": 5001}},
    ],
)
def test_the_comments_id_is_found_at_any_depth_and_in_any_spelling(said: dict[str, object]) -> None:
    email = read({"ticket_id": 1, **said})

    assert (email.comment_id, email.attachment_urls) == ("5001", None)
    assert read({"ticket_id": 1, **said, "attachments": [A]}).comment_id == "5001"


@pytest.mark.parametrize(
    "said",
    [
        {"comment_id": 5001, "commentId": 5002},
        {"comment": {"id": 5001}, "Comment": {"id": 5002}},
        {"comments": [{"id": 5002}, {"id": 5001}]},
        {"comments": [{"id": 5002, "created_at": "x"}, {"id": 5001}]},
        {"comment_id": "9" * 31},
        {"comment_id": "5001a"},
        {"comment_id": "-5"},
        {"comment_id": "\u0665"},
        {"comment_id": True},
        {"comment_id": {"x": 5}},
        {"comment_author_id": 5},
        {"comment": {"author": {"id": 5}, "audit_id": 6, "via": {"id": 7}}},
        {"comment": "5001"},
        {"first_comment_id": 5},
        {"parent_comment": {"id": 5}},
        {"in_reply_to_comment_id": 5},
        {"author": {"comment_id": 5}},
        {"custom_fields": [{"id": 5}], "audit": {"id": 6}, "via": {"id": 7}},
        {"body_text": '{"comment_id": 5}'},
        {"data": '{"comment_id": 5}'},
    ],
)
def test_an_ambiguous_id_is_not_taken(said: dict[str, object]) -> None:
    """With several ids none is guessed, and a sender's text names none."""
    email = read({"ticket_id": 1, **said})

    assert (email.comment_id, email.attachment_urls) == ("", None)
    assert read({"ticket_id": 1, **said, "attachments": [A]}).comment_id is None


@pytest.mark.parametrize("name", ["2026 invoice.pdf", "10 pictures.zip", "invoice.pdf"])
def test_a_number_at_the_beginning_of_a_files_name_counts_no_files(name: str) -> None:
    """The name stands beside the address; the key of the name counts one file."""
    said = {"attachment_name": name, "attachment_url": A}

    assert urls(**said) == [A]
    assert not is_looked_up(**said)
