"""The HTTP API: bodies that become files, and the resources of a master system.

It is handed what it shows and may do; `app.create_app` puts it together, `server.serve` serves it.
"""
