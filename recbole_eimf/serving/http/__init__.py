"""The service: a model folder over HTTP, with a page. Needs the extra [serve]."""
