"""Models of others: a registry of names, downloads with mirrors and checksums, and names -> local folders."""
