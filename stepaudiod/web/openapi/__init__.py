"""The OpenAPI document and its page, made of the schemas that validate. Imported when somebody asks."""
