"""The HTTP side: applications, routes, schemas, the page."""
