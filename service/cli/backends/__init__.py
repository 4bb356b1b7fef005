"""Where commands read and act: in the database beside the service, or over the API of a server."""
