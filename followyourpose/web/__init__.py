"""`followyourpose demo`: the server, the page, its requests and its jobs."""
