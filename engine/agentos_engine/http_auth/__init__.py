"""Who may use the REST port: by API key, by JWT, or everybody; per realm and per path."""
