"""Match words in Python, as Postgres does."""

from service.postgres.words import terms_of, words_of


def is_found(query: str, *texts: str) -> bool:
    """Say whether an e-mail with these texts matches a query."""
    words = words_of(texts)

    def has(asked: tuple[str, ...]) -> bool:
        return all(any(word.startswith(each) for word in words) for each in asked)

    terms = terms_of(query)
    return bool(terms) and all(has(term.words) or (bool(term.joined) and has(term.joined)) for term in terms)
