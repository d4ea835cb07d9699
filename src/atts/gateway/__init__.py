"""``atts serve``: the methods behind OpenAI's API, for clients that speak that already."""
