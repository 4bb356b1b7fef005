"""How we show ourselves to Zendesk.

https://developer.zendesk.com/api-reference/introduction/security-and-auth/
"""

import base64


def authorization(email: str | None, api_token: str | None, oauth_token: str | None) -> str | None:
    """Return the value of the `Authorization` header, or None without credentials."""
    if oauth_token:
        return f"Bearer {oauth_token}"
    if email and api_token:
        return "Basic " + base64.b64encode(f"{email}/token:{api_token}".encode()).decode()
    return None
