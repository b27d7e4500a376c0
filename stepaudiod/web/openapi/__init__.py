"""The OpenAPI document, built from the endpoints' declarations at the first request for it."""
