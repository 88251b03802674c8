"""Parsers of annotation files, one module per family of formats; each turns a source into a `listing.Listing`."""
