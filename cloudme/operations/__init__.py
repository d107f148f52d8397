"""The verbs. Each plans steps over the store and asks the host, which it is handed, to do them."""
