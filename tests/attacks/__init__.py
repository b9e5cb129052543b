"""Tables of attack strings, each with where it comes from; docs/security.md counts them."""
