"""`followyourpose demo`: the page, its requests and its jobs."""
