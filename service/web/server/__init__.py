"""The web server: sockets, connections, and the processes that serve them."""
