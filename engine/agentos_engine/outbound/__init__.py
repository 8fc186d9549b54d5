"""HTTP requests that the engine itself makes: to functions that are invoked over HTTP, and to webhooks."""
